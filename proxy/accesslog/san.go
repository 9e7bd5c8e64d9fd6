package accesslog

import (
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"net/netip"
)

// The kinds of subject alternative names, by their tags (RFC 5280, 4.2.1.6).
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
func sans(kind int) appendCert {
	return func(b []byte, c *x509.Certificate) []byte {
		separator := ""
		for rest := sanExtension(c); len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return b
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == kind {
				b = append(b, separator...)
				b = appendSAN(b, &name)
				separator = ","
			}
		}
		return b
	}
}

// sanExtension is what is in the extension's SEQUENCE; nil if there is none.
func sanExtension(c *x509.Certificate) []byte {
	for i := range c.Extensions {
		if e := &c.Extensions[i]; e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			var all asn1.RawValue
			if _, err := asn1.Unmarshal(e.Value, &all); err != nil {
				return nil
			}
			return all.Bytes
		}
	}
	return nil
}

func appendSAN(b []byte, name *asn1.RawValue) []byte {
	switch name.Tag {
	case sanIP:
		ip, ok := netip.AddrFromSlice(name.Bytes)
		if !ok {
			return b
		}
		return ip.AppendTo(b)
	case sanOther:
		return appendOtherName(b, name.Bytes)
	}
	return append(b, name.Bytes...)
}

// appendOtherName prints the value of an OtherName by its type; of a type that
// is no text and no number, nothing.
func appendOtherName(b, der []byte) []byte {
	var id asn1.ObjectIdentifier
	var explicit, v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &id)
	if err != nil {
		return b
	}
	if _, err = asn1.Unmarshal(rest, &explicit); err != nil || explicit.Tag != 0 {
		return b
	}
	if _, err = asn1.Unmarshal(explicit.Bytes, &v); err != nil || v.Class != asn1.ClassUniversal {
		return b
	}
	switch v.Tag {
	case asn1.TagBoolean:
		if len(v.Bytes) == 1 && v.Bytes[0] != 0 {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case asn1.TagInteger, asn1.TagEnum:
		return twosComplement(v.Bytes).Append(b, 10)
	case asn1.TagOID:
		var oid asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(explicit.Bytes, &oid); err != nil {
			return b
		}
		return append(b, oid.String()...)
	case asn1.TagBMPString:
		return append(b, wideText(v.Bytes, 2)...)
	case asn1.TagBitString:
		return append(b, v.Bytes[min(1, len(v.Bytes)):]...)
	case asn1.TagSequence, asn1.TagSet, asn1.TagNull:
		return b
	}
	return append(b, v.Bytes...)
}

func twosComplement(bytes []byte) *big.Int {
	n := new(big.Int).SetBytes(bytes)
	if len(bytes) > 0 && bytes[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(bytes))))
	}
	return n
}
