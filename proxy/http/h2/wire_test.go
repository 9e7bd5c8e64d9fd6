package h2

import (
	"testing"

	"golang.org/x/net/http2"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

func TestAStreamKnowsItsBytesOnTheWire(t *testing.T) {
	type bytes struct{ received, sent uint64 }
	seen := make(chan bytes, 10)
	q := newRecording(func(r *recorder) {
		r.onData = func(r *recorder, _ []byte, end bool) {
			if !end {
				return
			}
			sendHead(r, 200, false)
			r.SendData(make([]byte, 30_000), false)
			var trailers message.Fields
			trailers.Add("grpc-status", "0")
			r.SendTrailers(trailers)
			m, ok := r.Sender.(codec.Metered)
			if !ok {
				t.Error("the sender counts nothing")
				return
			}
			received, sent := m.Wire()
			seen <- bytes{received, sent}
		}
	})
	r, _ := rawClient(t, q, Options{})
	block := r.fields(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/")
	size := uint64(9 + len(block) + 9 + 10 + 9)
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	r.fr.WriteData(1, false, make([]byte, 10))
	r.fr.WriteData(1, true, nil)

	var sent uint64
	for ended := false; !ended; {
		f, err := r.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h := f.Header(); h.StreamID == 1 {
			sent += uint64(9 + h.Length)
			ended = h.Flags.Has(1) // END_STREAM
		}
	}
	got := <-seen
	if got.sent != sent {
		t.Errorf("%d bytes sent, want %d", got.sent, sent)
	}
	if got.received != size {
		t.Errorf("%d bytes received, want %d", got.received, size)
	}
}
