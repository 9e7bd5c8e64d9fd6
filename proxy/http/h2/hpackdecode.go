package h2

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

// decoder reads header blocks (RFC 7541), each in one piece. It is for one
// goroutine.
type decoder struct {
	dynamicTable
	most uint32 // that the peer may set as limit: our SETTINGS_HEADER_TABLE_SIZE

	// field takes a field. fine says that it took the same one before: its
	// answer is kept with what is in the table.
	field func(name, value string, fine bool) bool
	// never says of the field that is being taken that it is never indexed.
	never bool

	place int // of the next literal in its block
	memos []literalMemo
}

// literalMemo is a literal that stood at some place of the last block. Most
// repeat: then neither Huffman's code is decoded again nor a string made.
type literalMemo struct {
	wire []byte
	entry
}

// Bounds of the memory for literals: that many of a block, of so many bytes.
const (
	literalsKept = 12
	literalKept  = 96
)

func newDecoder(most uint32, field func(name, value string, fine bool) bool) *decoder {
	return &decoder{dynamicTable: dynamicTable{limit: defaultTableSize}, most: most, field: field}
}

var errTruncated = errors.New("the header block ends within a field")

// decode reads a block.
func (d *decoder) decode(p []byte) error {
	d.place = 0
	var err error
	for len(p) > 0 && p[0]&0xe0 == 0x20 {
		if p, err = d.newLimit(p); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		switch b := p[0]; {
		case b&0x80 != 0:
			p, err = d.indexed(p)
		case b&0xe0 == 0x20:
			return errors.New("a change of the table's size after the first field")
		default:
			p, err = d.literal(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) indexed(p []byte) ([]byte, error) {
	index, p, err := number(p, 7)
	if err != nil {
		return nil, err
	}
	e, err := d.at(index)
	if err != nil {
		return nil, err
	}
	d.never = false
	if fine := d.field(e.name, e.value, e.fine); fine != e.fine {
		e.fine = fine
	}
	return p, nil
}

// at is the entry of an index: of the static table, which is never written to,
// then of the dynamic one, the newest first.
func (d *decoder) at(index int) (*entry, error) {
	switch back := index - staticEntries; {
	case index == 0 || back > len(d.table):
		return nil, fmt.Errorf("there is no entry %d in a table of %d", index, staticEntries+len(d.table))
	case back <= 0:
		return &staticTable[index-1], nil
	default:
		return &d.table[len(d.table)-back], nil
	}
}

func (d *decoder) newLimit(p []byte) ([]byte, error) {
	limit, p, err := number(p, 5)
	switch {
	case err != nil:
		return nil, err
	case uint32(limit) > d.most:
		return nil, fmt.Errorf("a table of %d bytes, more than the %d that are allowed", limit, d.most)
	}
	d.limit = uint32(limit)
	d.makeRoom(0)
	return p, nil
}

// literal reads a field that is not in a table, or not all of it.
func (d *decoder) literal(p []byte) ([]byte, error) {
	keep, bits := p[0]&0xc0 == 0x40, uint(4)
	d.never = p[0]&0xf0 == 0x10
	if keep {
		bits = 6
	}
	place := d.place
	d.place++
	if place < len(d.memos) {
		if m := &d.memos[place]; len(m.wire) > 0 && len(p) >= len(m.wire) && string(p[:len(m.wire)]) == string(m.wire) {
			m.fine = d.field(m.name, m.value, m.fine)
			if keep {
				d.add(m.entry)
			}
			return p[len(m.wire):], nil
		}
	}
	wire := p
	index, p, err := number(p, bits)
	if err != nil {
		return nil, err
	}
	var e entry
	if index > 0 {
		named, err := d.at(index)
		if err != nil {
			return nil, err
		}
		e.name = named.name
	} else if e.name, p, err = text(p); err != nil {
		return nil, err
	}
	if e.value, p, err = text(p); err != nil {
		return nil, err
	}
	e.fine = d.field(e.name, e.value, false)
	if keep {
		d.add(e)
	}
	if index <= staticEntries { // else the name may be another the next time
		d.remember(place, wire[:len(wire)-len(p)], e)
	}
	return p, nil
}

func (d *decoder) remember(place int, wire []byte, e entry) {
	if place >= literalsKept {
		return
	}
	for len(d.memos) <= place {
		d.memos = append(d.memos, literalMemo{})
	}
	m := &d.memos[place]
	if len(wire) > literalKept {
		*m = literalMemo{wire: m.wire[:0]}
		return
	}
	m.wire, m.entry = append(m.wire[:0], wire...), e
}

// number reads an integer whose first byte has that many bits of it (RFC 7541,
// section 5.1). More than 28 bits are refused: nothing here is as long.
func number(p []byte, bits uint) (int, []byte, error) {
	most := 1<<bits - 1
	n := int(p[0]) & most
	p = p[1:]
	if n < most {
		return n, p, nil
	}
	for shift := uint(0); shift < 28; shift += 7 {
		if len(p) == 0 {
			return 0, nil, errTruncated
		}
		b := p[0]
		p = p[1:]
		n += int(b&0x7f) << shift
		if b&0x80 == 0 {
			return n, p, nil
		}
	}
	return 0, nil, errors.New("an integer of more than 28 bits")
}

// text reads a string (section 5.2).
func text(p []byte) (string, []byte, error) {
	if len(p) == 0 {
		return "", nil, errTruncated
	}
	coded := p[0]&0x80 != 0
	n, p, err := number(p, 7)
	switch {
	case err != nil:
		return "", nil, err
	case n > len(p):
		return "", nil, errTruncated
	case coded:
		s, err := hpack.HuffmanDecodeToString(p[:n])
		return s, p[n:], err
	}
	return string(p[:n]), p[n:], nil
}
