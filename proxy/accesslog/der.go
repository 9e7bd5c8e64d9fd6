package accesslog

// element is one DER value (X.690). encoding/asn1 would do, but allocates for
// each.
type element struct {
	tag     byte // class, form and number as they stand
	content []byte
	whole   []byte // with tag and length
}

// The tags that are looked for, with class and form.
const (
	tagBoolean         = 0x01
	tagInteger         = 0x02
	tagBitString       = 0x03
	tagNull            = 0x05
	tagOID             = 0x06
	tagEnumerated      = 0x0a
	tagUTF8String      = 0x0c
	tagNumericString   = 0x12
	tagPrintableString = 0x13
	tagT61String       = 0x14
	tagIA5String       = 0x16
	tagVisibleString   = 0x1a
	tagGeneralString   = 0x1b
	tagUniversalString = 0x1c
	tagBMPString       = 0x1e
	tagSequence        = 0x30
	tagSet             = 0x31
	tagContext         = 0x80 // [0], primitive
	tagConstructed     = 0x20
)

// next is the first value of der and what is behind it; false if there is no
// whole one.
func next(der []byte) (e element, rest []byte, ok bool) {
	if len(der) < 2 || der[0]&0x1f == 0x1f { // tags of several bytes are of none of these
		return e, nil, false
	}
	length, header := int(der[1]), 2
	if length >= 0x80 {
		octets := length & 0x7f
		if octets == 0 || octets > 3 || len(der) < 2+octets {
			return e, nil, false
		}
		length, header = 0, 2+octets
		for _, c := range der[2:header] {
			length = length<<8 | int(c)
		}
	}
	if length > len(der)-header {
		return e, nil, false
	}
	end := header + length
	return element{tag: der[0], content: der[header:end], whole: der[:end]}, der[end:], true
}
