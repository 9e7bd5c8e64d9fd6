package h1

import (
	"math/rand/v2"
	"testing"
)

func TestValuesAreJudgedByteByByte(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200000 {
		p := make([]byte, rnd.IntN(40))
		for i := range p {
			if p[i] = byte(rnd.Uint32()); rnd.IntN(10) > 0 {
				p[i] = "aZ \x1f\x20\x7e\x7f\x80\xff\t\x00\x01\x9f\xa0"[rnd.IntN(4)]
			}
		}
		if rnd.IntN(2) == 0 { // most bytes are right
			for i := range p {
				if !valueChars[p[i]] && rnd.IntN(20) > 0 {
					p[i] = 'x'
				}
			}
		}
		if got, want := validValue(p), all(valueChars, p); got != want {
			t.Fatalf("%q: %v, want %v", p, got, want)
		}
	}
}

func TestDecimalTakesDigitsOnly(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
	}{
		{"0", 0}, {"3", 3}, {"003", 3}, {"9223372036854775807", 1<<63 - 1}, {"000000000000000000000012", 12},
		{"9223372036854775808", -1}, {"99999999999999999999", -1}, {"", -1}, {"+3", -1}, {"-3", -1}, {" 3", -1}, {"3,3", -1}, {"0x3", -1}, {"3\x00", -1},
	} {
		if got := decimal(c.text); got != c.want {
			t.Errorf("%q: %d, want %d", c.text, got, c.want)
		}
	}
}
