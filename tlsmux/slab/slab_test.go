package slab

import "testing"

func TestOnlySoManyLargeBuffersAreInUse(t *testing.T) {
	p := NewPool(1, 10)
	if b := p.Get(false); len(b.Bytes) != 1 {
		t.Errorf("a small one has %d bytes", len(b.Bytes))
	}
	for range 3 {
		var all []*Buffer
		for i := range maxLarge + 5 {
			b := p.Get(true)
			want := 10
			if i >= maxLarge {
				want = 1
			}
			if len(b.Bytes) != want {
				t.Fatalf("buffer %d has %d bytes, want %d", i, len(b.Bytes), want)
			}
			all = append(all, b)
		}
		for _, b := range all {
			p.Put(b)
		}
	}
}
