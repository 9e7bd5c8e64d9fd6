package accesslog

import (
	"encoding/asn1"
	"unicode/utf8"
)

// attributeSET is one RDN; the name makes encoding/asn1 take it for a SET.
type attributeSET []attribute

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// appendName prints a distinguished name as RFC 2253 has it, the last RDN
// first, with OpenSSL's short names: what Envoy prints. One that cannot be
// parsed is nothing; crypto/x509 has parsed it before.
func appendName(b, der []byte) []byte {
	var rdns []attributeSET
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return b
	}
	separator := ""
	for i := len(rdns) - 1; i >= 0; i-- {
		for j := len(rdns[i]) - 1; j >= 0; j-- {
			b = append(b, separator...)
			b = appendAttribute(b, &rdns[i][j])
			separator = "+"
		}
		separator = ","
	}
	return b
}

func appendAttribute(b []byte, a *attribute) []byte {
	name := shortName(a.Type.String())
	if name == "" {
		b = append(b, a.Type.String()...)
		return appendDER(append(b, '='), a.Value.FullBytes)
	}
	b = append(append(b, name...), '=')
	s, ok := stringOf(&a.Value)
	if !ok {
		return appendDER(b, a.Value.FullBytes)
	}
	return appendEscapedName(b, s)
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
func appendEscapedName(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		switch {
		case c < ' ' || c >= 0x7f:
			b = append(b, '\\', upperDigits[c>>4], upperDigits[c&15])
		case c == ',' || c == '+' || c == '"' || c == '\\' || c == '<' || c == '>' || c == ';',
			i == 0 && (c == '#' || c == ' '), i == len(s)-1 && c == ' ':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return b
}

// Tags that encoding/asn1 has no name for (X.680).
const (
	tagVisibleString   = 26
	tagUniversalString = 28
)

// stringOf is the text of a string type, as UTF-8; false for other types.
func stringOf(v *asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String:
		return string(v.Bytes), true
	case asn1.TagBMPString:
		return wideText(v.Bytes, 2), true
	case tagUniversalString:
		return wideText(v.Bytes, 4), true
	case asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String, asn1.TagNumericString, tagVisibleString, asn1.TagGeneralString:
		return wideText(v.Bytes, 1), true // Latin-1
	}
	return "", false
}

// wideText is of characters of that many bytes.
func wideText(b []byte, size int) string {
	var out []byte
	for ; len(b) >= size; b = b[size:] {
		r := rune(0)
		for _, c := range b[:size] {
			r = r<<8 | rune(c)
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// shortName is OpenSSL's short name of an attribute type, "" if it has none
// (source: the names that Envoy 1.40 prints).
func shortName(oid string) string {
	return map[string]string{
		"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
		"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.13": "description",
		"2.5.4.14": "searchGuide", "2.5.4.15": "businessCategory", "2.5.4.16": "postalAddress", "2.5.4.17": "postalCode",
		"2.5.4.18": "postOfficeBox", "2.5.4.19": "physicalDeliveryOfficeName", "2.5.4.20": "telephoneNumber",
		"2.5.4.41": "name", "2.5.4.42": "GN", "2.5.4.43": "initials", "2.5.4.44": "generationQualifier",
		"2.5.4.45": "x500UniqueIdentifier", "2.5.4.46": "dnQualifier", "2.5.4.51": "houseIdentifier",
		"2.5.4.65": "pseudonym", "2.5.4.72": "role",
		"1.2.840.113549.1.9.1": "emailAddress", "1.2.840.113549.1.9.2": "unstructuredName",
		"1.2.840.113549.1.9.8":      "unstructuredAddress",
		"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.3": "mail", "0.9.2342.19200300.100.1.25": "DC",
	}[oid]
}
