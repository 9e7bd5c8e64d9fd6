package accesslog

import (
	"encoding/asn1"
	"unicode/utf8"
)

// appendName prints a distinguished name as RFC 2253 has it, the last RDN
// first, with OpenSSL's short names: what Envoy prints. One that cannot be
// parsed is cut short; crypto/x509 has parsed it before.
func appendName(b, der []byte) []byte {
	name, _, ok := next(der)
	if !ok || name.tag != tagSequence {
		return b
	}
	return appendRDNs(b, name.content)
}

// appendRDNs prints those behind the first before the first.
func appendRDNs(b, der []byte) []byte {
	rdn, rest, ok := next(der)
	if !ok || rdn.tag != tagSet {
		return b
	}
	start := len(b)
	b = appendRDNs(b, rest)
	if len(b) > start {
		b = append(b, ',')
	}
	return appendAttributes(b, rdn.content)
}

func appendAttributes(b, der []byte) []byte {
	a, rest, ok := next(der)
	if !ok || a.tag != tagSequence {
		return b
	}
	start := len(b)
	b = appendAttributes(b, rest)
	if len(b) > start {
		b = append(b, '+')
	}
	return appendAttribute(b, a.content)
}

func appendAttribute(b, der []byte) []byte {
	oid, rest, ok := next(der)
	if !ok || oid.tag != tagOID {
		return b
	}
	value, _, ok := next(rest)
	if !ok {
		return b
	}
	name := shortName(oid.content)
	if name == "" {
		b = append(appendOID(b, oid.whole), '=')
		return appendDER(b, value.whole)
	}
	b = append(append(b, name...), '=')
	if text, ok := textOf(value); ok {
		return appendEscapedName(b, text)
	}
	return appendDER(b, value.whole)
}

// appendOID prints an object identifier with dots.
func appendOID(b, der []byte) []byte {
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(der, &oid); err != nil {
		return b
	}
	return append(b, oid.String()...)
}

// appendDER is RFC 2253's # and hex digits.
func appendDER(b, der []byte) []byte {
	b = append(b, '#')
	for _, c := range der {
		b = append(b, upperDigits[c>>4], upperDigits[c&15])
	}
	return b
}

// appendEscapedName escapes as RFC 2253 says, and with it control characters
// and all that is not ASCII.
func appendEscapedName(b, text []byte) []byte {
	for i, c := range text {
		switch {
		case c < ' ' || c >= 0x7f:
			b = append(b, '\\', upperDigits[c>>4], upperDigits[c&15])
		case c == ',' || c == '+' || c == '"' || c == '\\' || c == '<' || c == '>' || c == ';',
			i == 0 && (c == '#' || c == ' '), i == len(text)-1 && c == ' ':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return b
}

// textOf is the text of a string type, as UTF-8; false for other types.
func textOf(v element) ([]byte, bool) {
	switch v.tag {
	case tagUTF8String:
		return v.content, true
	case tagBMPString:
		return wideText(v.content, 2), true
	case tagUniversalString:
		return wideText(v.content, 4), true
	case tagPrintableString, tagIA5String, tagT61String, tagNumericString, tagVisibleString, tagGeneralString:
		for _, c := range v.content {
			if c >= utf8.RuneSelf {
				return wideText(v.content, 1), true // Latin-1
			}
		}
		return v.content, true
	}
	return nil, false
}

// wideText is of characters of that many bytes.
func wideText(b []byte, size int) []byte {
	var out []byte
	for ; len(b) >= size; b = b[size:] {
		r := rune(0)
		for _, c := range b[:size] {
			r = r<<8 | rune(c)
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// shortName is OpenSSL's short name of an attribute type as DER has it, "" if
// it has none (source: the names that Envoy 1.40 prints).
func shortName(oid []byte) string {
	const x520, pilot, pkcs9 = "\x55\x04", "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01", "\x2a\x86\x48\x86\xf7\x0d\x01\x09"
	if len(oid) == len(x520)+1 && string(oid[:2]) == x520 {
		return x520Name(oid[2])
	}
	switch string(oid) {
	case pkcs9 + "\x01":
		return "emailAddress"
	case pkcs9 + "\x02":
		return "unstructuredName"
	case pkcs9 + "\x08":
		return "unstructuredAddress"
	case pilot + "\x01":
		return "UID"
	case pilot + "\x03":
		return "mail"
	case pilot + "\x19":
		return "DC"
	}
	return ""
}

// x520Name is of 2.5.4.n.
func x520Name(n byte) string {
	names := [...]string{
		3: "CN", 4: "SN", 5: "serialNumber", 6: "C", 7: "L", 8: "ST", 9: "street", 10: "O", 11: "OU", 12: "title",
		13: "description", 14: "searchGuide", 15: "businessCategory", 16: "postalAddress", 17: "postalCode",
		18: "postOfficeBox", 19: "physicalDeliveryOfficeName", 20: "telephoneNumber", 41: "name", 42: "GN",
		43: "initials", 44: "generationQualifier", 45: "x500UniqueIdentifier", 46: "dnQualifier",
		51: "houseIdentifier", 65: "pseudonym", 72: "role",
	}
	if int(n) < len(names) {
		return names[n]
	}
	return ""
}
