package h2

import "golang.org/x/net/http2/hpack"

// encoder writes header blocks (RFC 7541). Messages of a connection have much
// the same fields in the same order, so it looks first at the entry that the
// field in this place was last time: a comparison, where x/net's encoder has
// two maps with both strings as their keys. It is for one goroutine at a time.
type encoder struct {
	dynamicTable

	place   int // of the next field in its block
	guesses [placesGuessed]uint64

	// A change of limit is told at the beginning of the next block, as is that
	// it was lower in between (section 4.2).
	changed bool
	lowest  uint32
}

// placesGuessed is of how many fields of a block the entry is remembered.
const placesGuessed = 32

func newEncoder(limit uint32) *encoder {
	e := &encoder{dynamicTable: dynamicTable{limit: defaultTableSize}}
	if limit < defaultTableSize {
		e.resize(limit)
	}
	return e
}

// resize sets the limit, which the decoder has agreed to.
func (e *encoder) resize(limit uint32) {
	if !e.changed {
		e.changed, e.lowest = true, limit
	}
	e.lowest, e.limit = min(e.lowest, limit), limit
	e.makeRoom(0)
}

// begin is called before the first field of a block.
func (e *encoder) begin() { e.place = 0 }

// indexing is what a field may do with the table.
type indexing uint8

const (
	indexed   indexing = iota // it goes into it
	unindexed                 // it does not, for it would be of no use
	never                     // it must not, here and wherever it is sent on to
)

// field appends a field.
func (e *encoder) field(b []byte, name, value string, how indexing) []byte {
	b = e.tell(b)
	place := e.place
	e.place++
	if how == never {
		index, _ := staticIndex(name, value)
		return appendValue(appendName(b, 0x10, 4, index, name), value)
	}
	if place < placesGuessed {
		if at := e.guesses[place] - e.base; at < uint64(len(e.table)) && e.table[at].value == value && e.table[at].name == name {
			return appendNumber(b, 0x80, 7, e.index(int(at)))
		}
	}
	index, whole := staticIndex(name, value)
	if whole {
		return appendNumber(b, 0x80, 7, index)
	}
	if how == unindexed {
		return appendValue(appendName(b, 0, 4, index, name), value)
	}
	at, whole := e.find(name, value)
	switch {
	case whole:
		e.guess(place, at)
		return appendNumber(b, 0x80, 7, e.index(at))
	case index == 0 && at >= 0:
		index = e.index(at)
	}
	added := entry{name: name, value: value}
	if added.size() > e.limit {
		return appendValue(appendName(b, 0, 4, index, name), value)
	}
	b = appendShorter(appendName(b, 0x40, 6, index, name), value)
	e.add(added)
	e.guess(place, len(e.table)-1)
	return b
}

func (e *encoder) guess(place, at int) {
	if place < placesGuessed {
		e.guesses[place] = e.base + uint64(at)
	}
}

// index is that of table[at] on the wire: the newest is the first behind the
// static table.
func (e *encoder) index(at int) int { return staticEntries + len(e.table) - at }

// find looks for a field in the dynamic table. at is negative if not even the
// name is there.
func (e *encoder) find(name, value string) (at int, whole bool) {
	at = -1
	for i := len(e.table) - 1; i >= 0; i-- {
		if e.table[i].name != name {
			continue
		}
		if e.table[i].value == value {
			return i, true
		}
		if at < 0 {
			at = i
		}
	}
	return at, false
}

// tell says what became of the limit. If it was lower for a while we say that it
// was 0: Go's decoder (x/net) takes a second update only while its table is
// empty.
func (e *encoder) tell(b []byte) []byte {
	if !e.changed {
		return b
	}
	e.changed = false
	if e.lowest < e.limit {
		e.clear()
		b = appendNumber(b, 0x20, 5, 0)
	}
	return appendNumber(b, 0x20, 5, int(e.limit))
}

// appendNumber appends an integer with a prefix of some bits of its first byte,
// the others of which are pattern (RFC 7541, section 5.1).
func appendNumber(b []byte, pattern byte, bits uint, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, pattern|byte(n))
	}
	b = append(b, pattern|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		b = append(b, byte(0x80|n&0x7f))
	}
	return append(b, byte(n))
}

// appendName appends the beginning of a literal: the index of its name, or the
// name.
func appendName(b []byte, pattern byte, bits uint, index int, name string) []byte {
	b = appendNumber(b, pattern, bits, index)
	if index > 0 {
		return b
	}
	return appendShorter(b, name)
}

// appendValue appends a string as it is (section 5.2): one that is sent once is
// not worth Huffman's code.
func appendValue(b []byte, s string) []byte {
	return append(appendNumber(b, 0, 7, len(s)), s...)
}

// appendShorter appends a string in Huffman's code if that is shorter.
func appendShorter(b []byte, s string) []byte {
	n := int(hpack.HuffmanEncodeLength(s))
	if n >= len(s) {
		return appendValue(b, s)
	}
	return hpack.AppendHuffmanString(appendNumber(b, 0x80, 7, n), s)
}
