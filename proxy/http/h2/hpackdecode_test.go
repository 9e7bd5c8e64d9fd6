package h2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// decoders are ours and x/net's on the same blocks.
type decoders struct {
	ours, theirs   []string
	our            *decoder
	their          *hpack.Decoder
	refuse, refine map[string]bool // fields that are not fine; what was said of each
}

func newDecoders() *decoders {
	d := &decoders{refuse: map[string]bool{}, refine: map[string]bool{}}
	d.our = newDecoder(defaultTableSize, func(name, value string, fine bool) bool {
		field := name + ": " + value
		d.ours = append(d.ours, field)
		d.refine[field] = fine
		return !d.refuse[field]
	})
	d.their = hpack.NewDecoder(defaultTableSize, func(f hpack.HeaderField) {
		d.theirs = append(d.theirs, f.Name+": "+f.Value)
	})
	return d
}

// decode gives both a block. The errors are ours and theirs.
func (d *decoders) decode(p []byte) (our, their error) {
	d.ours, d.theirs = nil, nil
	our = d.our.decode(p)
	_, their = d.their.Write(p)
	if err := d.their.Close(); their == nil {
		their = err
	}
	return our, their
}

// written is what x/net's encoder makes of fields, with the same table for all.
type written struct {
	bytes.Buffer
	enc *hpack.Encoder
}

func newWritten() *written {
	w := &written{}
	w.enc = hpack.NewEncoder(&w.Buffer)
	return w
}

func (w *written) block(pairs ...string) []byte {
	w.Reset()
	for i := 0; i < len(pairs); i += 2 {
		w.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1], Sensitive: pairs[i] == "secret"})
	}
	return bytes.Clone(w.Bytes())
}

func TestDecoderReadsWhatOthersWrite(t *testing.T) {
	d, w := newDecoders(), newWritten()
	for i := range 2000 { // entries go, and come back
		if i%300 == 299 {
			w.enc.SetMaxDynamicTableSize(uint32(i))
		}
		b := w.block(":method", "GET", ":path", fmt.Sprint("/", i%90), "secret", "x", "a", strings.Repeat("v", i%120), "server", "s")
		if our, their := d.decode(b); our != nil || their != nil {
			t.Fatalf("block %d: %v, x/net: %v", i, our, their)
		}
		if !slices.Equal(d.ours, d.theirs) {
			t.Fatalf("block %d: %q, x/net: %q", i, d.ours, d.theirs)
		}
	}
}

func TestLiteralsOfTheSamePlaceAreFollowedThroughTheTable(t *testing.T) {
	d := newDecoders()
	head := newWritten().block("x-new-name", "one", "content-length", "12") // written once, sent as it is each time
	for range 50 {
		if our, their := d.decode(head); our != nil || their != nil || !slices.Equal(d.ours, d.theirs) {
			t.Fatalf("%q, %v; x/net: %q, %v", d.ours, our, d.theirs, their)
		}
	}
	if our, their := d.decode([]byte{0xbe, 0xbf, 0xc0, 0xc1}); our != nil || their != nil || !slices.Equal(d.ours, d.theirs) {
		t.Fatalf("the table after that: %q, %v; x/net: %q, %v", d.ours, our, d.theirs, their)
	}
	// A name by its place in the dynamic table is another one after each block.
	named := append([]byte{0x40 | 62}, "\x01z"...)
	for i := range 5 {
		grow := newWritten().block(fmt.Sprint("grown-", i), "v")
		if our, their := d.decode(append(grow, named...)); our != nil || their != nil || !slices.Equal(d.ours, d.theirs) {
			t.Fatalf("%q, %v; x/net: %q, %v", d.ours, our, d.theirs, their)
		}
	}
}

func TestWhatIsNotFineIsLookedAtEachTime(t *testing.T) {
	d, w := newDecoders(), newWritten()
	d.refuse["bad: x"] = true
	for range 3 {
		d.decode(w.block("bad", "x", "good", "y"))
		if d.refine["bad: x"] {
			t.Fatal("what was refused is said to be fine")
		}
	}
	if !d.refine["good: y"] {
		t.Error("what was taken is looked at again")
	}
}

func TestBlocksThatAreRefused(t *testing.T) {
	for name, block := range map[string]string{
		"entry 0":                            "\x80",
		"an entry beyond the table":          "\xbe",
		"a name beyond the table":            "\x7f\x00\x01a",
		"a number without its end":           "\xff\x80",
		"a number of more than 28 bits":      "\xff\xff\xff\xff\xff\xff\x7f",
		"a name without its value":           "\x40\x01a",
		"a value that is too short":          "\x40\x01a\x05b",
		"a table larger than allowed":        "\x3f\xe2\x1f",
		"a table size after a field":         "\x82\x20",
		"Huffman's code with wrong padding":  "\x00\x01a\x81\x00",
		"Huffman's code with the end symbol": "\x00\x01a\x84\xff\xff\xff\xff",
	} {
		d := newDecoders()
		if our, _ := d.decode([]byte(block)); our == nil {
			t.Errorf("%s is taken as %q", name, d.ours)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	w := newWritten()
	f.Add(w.block(":status", "200", "server", "x", "a", "b"), w.block(":status", "200", "server", "y", "a", "b"))
	f.Add([]byte("\x3f\x01\x82"), []byte("\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		d := newDecoders()
		for _, b := range [][]byte{first, second, first, first} {
			our, their := d.decode(b)
			if (our == nil) != (their == nil) && !knownToDiffer(our, their) {
				t.Fatalf("% x: %v, x/net: %v", b, our, their)
			}
			if our != nil || their != nil {
				return
			}
			if !slices.Equal(d.ours, d.theirs) {
				t.Fatalf("% x: %q, x/net: %q", b, d.ours, d.theirs)
			}
		}
	})
}

// knownToDiffer: x/net takes longer integers, and a change of the table's size
// anywhere, or several of them, only while it has nothing in it; ours takes any
// number of them at the beginning.
func knownToDiffer(our, their error) bool {
	return our != nil && (strings.Contains(our.Error(), "28 bits") || strings.Contains(our.Error(), "after the first field")) ||
		their != nil && strings.Contains(their.Error(), "dynamic table size update MUST occur")
}
