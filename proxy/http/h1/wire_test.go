package h1

import (
	"testing"

	"outrider/proxy/http/codec"
)

func TestAStreamKnowsItsBytesOnTheWire(t *testing.T) {
	type bytes struct{ received, sent uint64 }
	seen := make(chan bytes, 10)
	a := newApp(func(r *record, _ string) {
		r.mu.Lock()
		done := r.done
		r.mu.Unlock()
		if !done {
			return
		}
		r.s.SendHead(respond(200), false)
		r.s.SendData([]byte("hello"), true)
		m, ok := r.s.(codec.Metered)
		if !ok {
			t.Error("the sender counts nothing")
			return
		}
		received, sent := m.Wire()
		seen <- bytes{received, sent}
	})
	v := serve(t, a, Options{})
	const answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	for _, request := range []string{
		"GET /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: v\r\n\r\n",
	} {
		v.write(request)
		v.read(answer)
		if got, want := <-seen, (bytes{uint64(len(request)), uint64(len(answer))}); got != want {
			t.Errorf("%q: %+v, want %+v", request, got, want)
		}
	}
}
