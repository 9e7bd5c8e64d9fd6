package accesslog

import (
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"net/netip"
)

// The kinds of subject alternative names, by their numbers (RFC 5280,
// section 4.2.1.6).
const (
	sanOther = 0
	sanEmail = 1
	sanDNS   = 2
	sanURI   = 6
	sanIP    = 7
)

// sans prints the names of one kind, in the certificate's order, with commas
// between. They are read from the extension itself, for crypto/x509 keeps URIs
// and addresses in a form of its own.
func sans(kind byte) appendCert {
	return func(b []byte, c *x509.Certificate) []byte { return appendSANs(b, sanExtension(c), kind) }
}

// sanExtension is what is in the extension's SEQUENCE; nil if there is none.
func sanExtension(c *x509.Certificate) []byte {
	for i := range c.Extensions {
		if e := &c.Extensions[i]; e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			all, _, _ := next(e.Value)
			return all.content
		}
	}
	return nil
}

// appendSANs prints those of the kind among names, up to what is no name.
func appendSANs(b, names []byte, kind byte) []byte {
	separator := ""
	for len(names) > 0 {
		name, rest, ok := next(names)
		if !ok {
			return b
		}
		if names = rest; name.tag&^tagConstructed == tagContext|kind {
			b = append(b, separator...)
			b = appendSAN(b, kind, name.content)
			separator = ","
		}
	}
	return b
}

func appendSAN(b []byte, kind byte, name []byte) []byte {
	switch kind {
	case sanIP:
		if ip, ok := netip.AddrFromSlice(name); ok {
			return ip.AppendTo(b)
		}
		return b
	case sanOther:
		return appendOtherName(b, name)
	}
	return append(b, name...)
}

// appendOtherName prints the value of an OtherName by its type; of a type that
// is no text and no number, nothing.
func appendOtherName(b, der []byte) []byte {
	_, rest, ok := next(der) // what kind of name it is
	if !ok {
		return b
	}
	explicit, _, ok := next(rest)
	if !ok || explicit.tag != tagContext|tagConstructed {
		return b
	}
	v, _, ok := next(explicit.content)
	if !ok {
		return b
	}
	switch v.tag {
	case tagBoolean:
		if len(v.content) == 1 && v.content[0] != 0 {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case tagInteger, tagEnumerated:
		return twosComplement(v.content).Append(b, 10)
	case tagOID:
		return appendOID(b, v.whole)
	case tagBMPString:
		return append(b, wideText(v.content, 2)...)
	case tagBitString:
		return append(b, v.content[min(1, len(v.content)):]...)
	case tagNull:
		return b
	}
	if v.tag&^0x1f != 0 { // constructed, or of another class
		return b
	}
	return append(b, v.content...)
}

func twosComplement(bytes []byte) *big.Int {
	n := new(big.Int).SetBytes(bytes)
	if len(bytes) > 0 && bytes[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(bytes))))
	}
	return n
}
