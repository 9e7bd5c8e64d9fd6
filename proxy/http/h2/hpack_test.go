package h2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// hpackPair is our encoder with x/net's decoder behind it.
type hpackPair struct {
	t       *testing.T
	enc     *encoder
	dec     *hpack.Decoder
	decoded []hpack.HeaderField
}

func newHPACKPair(t *testing.T, limit uint32) *hpackPair {
	p := &hpackPair{t: t, enc: newEncoder(limit)}
	p.dec = hpack.NewDecoder(defaultTableSize, func(f hpack.HeaderField) { p.decoded = append(p.decoded, f) })
	return p
}

// block encodes fields, and checks that they are decoded as they were.
func (p *hpackPair) block(fields ...entry) []byte {
	p.t.Helper()
	p.enc.begin()
	var b []byte
	for _, f := range fields {
		b = p.enc.field(b, f.name, f.value, indexingOf(f.name, f.value))
	}
	p.decoded = nil
	if _, err := p.dec.Write(b); err != nil {
		p.t.Fatalf("% x: %v", b, err)
	}
	if err := p.dec.Close(); err != nil {
		p.t.Fatalf("% x: %v", b, err)
	}
	if len(p.decoded) != len(fields) {
		p.t.Fatalf("%d of %d fields: %v", len(p.decoded), len(fields), p.decoded)
	}
	for i, f := range p.decoded {
		if f.Name != fields[i].name || f.Value != fields[i].value {
			p.t.Fatalf("field %d is %s: %s, for %s: %s", i, f.Name, f.Value, fields[i].name, fields[i].value)
		}
	}
	return b
}

func TestEveryEntryOfTheStaticTableIsOneByte(t *testing.T) {
	// The decoder's table, read from it: index by index.
	var all []entry
	dec := hpack.NewDecoder(0, func(f hpack.HeaderField) { all = append(all, entry{name: f.Name, value: f.Value}) })
	for i := 1; i <= staticEntries; i++ {
		if _, err := dec.Write([]byte{0x80 | byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range all {
		p := newHPACKPair(t, defaultTableSize)
		if b := p.enc.field(nil, f.name, f.value, indexed); !bytes.Equal(b, []byte{0x80 | byte(i+1)}) {
			t.Errorf("%s: %q, entry %d, is % x", f.name, f.value, i+1, b)
		}
	}
}

func TestFieldsOfTheLastMessageAreOneByteEach(t *testing.T) {
	p := newHPACKPair(t, defaultTableSize)
	fields := []entry{{name: ":status", value: "200"}, {name: "server", value: "envoy"}, {name: "x-a", value: "1"}, {name: "x-b", value: "2"}, {name: "x-a", value: "3"}}
	if first := p.block(fields...); len(first) < 20 {
		t.Errorf("the first time: % x", first)
	}
	if again := p.block(fields...); len(again) != len(fields) {
		t.Errorf("the second time: % x", again)
	}
	other := []entry{{name: "x-a", value: "3"}, {name: ":status", value: "200"}, {name: "x-b", value: "2"}} // in other places
	if b := p.block(other...); len(b) != len(other) {
		t.Errorf("in other places: % x", b)
	}
}

func TestANameOfTheTableIsNotWrittenAgain(t *testing.T) {
	p := newHPACKPair(t, defaultTableSize)
	p.block(entry{name: "x-long-name-of-a-field", value: "1"})
	if b := p.block(entry{name: "x-long-name-of-a-field", value: "2"}); len(b) > 3 {
		t.Errorf("a new value: % x", b)
	}
	if b := p.block(entry{name: "etag", value: "abc"}); b[0] != 0x0f || b[1] != 34-15 { // without indexing, the name's index
		t.Errorf("etag: % x", b)
	}
}

func TestSecretsAreNeverIndexed(t *testing.T) {
	for _, name := range []string{"authorization", "proxy-authorization"} {
		for _, value := range []string{"Basic abc", strings.Repeat("x", 2000)} {
			p := newHPACKPair(t, defaultTableSize)
			p.block(entry{name: name, value: value})
			if !p.decoded[0].Sensitive {
				t.Errorf("%s of %d bytes may be indexed", name, len(value))
			}
			if len(p.enc.table) != 0 {
				t.Errorf("%s is in the table", name)
			}
		}
	}
}

func TestTableOfTheEncoderIsThatOfTheDecoder(t *testing.T) {
	p := newHPACKPair(t, defaultTableSize)
	for i := range 3000 { // entries go, and come back
		p.block(entry{name: ":method", value: "GET"}, entry{name: "x-n", value: fmt.Sprint(i % 70)}, entry{name: "x-fixed", value: "v"}, entry{name: "x-pad", value: strings.Repeat("p", i%100)})
		if p.enc.size > p.enc.limit {
			t.Fatalf("%d bytes in a table of %d", p.enc.size, p.enc.limit)
		}
	}
}

func TestLimitOfTheTableIsToldAsItWasAndIs(t *testing.T) {
	p := newHPACKPair(t, defaultTableSize)
	p.block(entry{name: "a", value: "b"})
	p.enc.resize(100)
	p.enc.resize(200)
	b := p.block(entry{name: "a", value: "b"})
	if !bytes.HasPrefix(b, []byte{0x20, 0x3f, 200 - 31, 0x01}) { // 0, then 200
		t.Errorf("the updates are % x", b)
	}
	if again := p.block(entry{name: "a", value: "b"}); len(again) != 1 {
		t.Errorf("once more: % x", again)
	}
	p.enc.resize(40) // too small for what comes
	p.block(entry{name: "a-name", value: "a value"}, entry{name: "a", value: "b"})
	if len(p.enc.table) != 1 {
		t.Errorf("the table has %v", p.enc.table)
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add([]byte("\x03abc\x02de\x00\xff\x10"))
	f.Fuzz(func(t *testing.T, script []byte) {
		p := newHPACKPair(t, defaultTableSize)
		names := []string{":method", ":status", "server", "a", "b", "authorization", "etag", strings.Repeat("n", 100)}
		values := []string{"", "GET", "200", "x", "y", strings.Repeat("v", 900), strings.Repeat("w", 1100)}
		var fields []entry
		for _, c := range script {
			switch c >> 6 {
			case 3:
				p.enc.resize(uint32(c&0x3f) * 65) // up to 4095
			case 2:
				p.block(fields...)
				fields = nil
			default:
				fields = append(fields, entry{name: names[c&7], value: values[int(c>>3&7)%len(values)]})
			}
		}
		p.block(fields...)
	})
}
