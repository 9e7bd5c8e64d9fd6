package h1

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

func TestHeadThatTakesTooLongIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := net.Pipe()
		a := newApp(ok)
		var details string
		srv := NewServer(relay.Plain(nc), a, Options{HeadTimeout: 5 * time.Second, Mistake: func(_ int, d string) { details = d }})
		done := make(chan *codec.End)
		go func() { done <- srv.Serve() }()
		time.Sleep(time.Minute) // an idle connection has no such limit
		io.WriteString(client, "GET /x HT")
		time.Sleep(4 * time.Second)
		io.WriteString(client, "TP/1.1\r\nHost: a\r\n\r\n")
		buf := make([]byte, len(okText))
		if _, err := io.ReadFull(client, buf); err != nil || string(buf) != okText {
			t.Fatalf("read %q: %v", buf, err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		io.WriteString(client, "GET /x HTTP/1.1\r\n")
		got := readAll(client)
		if want := "HTTP/1.1 408 Request Timeout\r\ncontent-length: 22\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nrequest header timeout"; got != want {
			t.Errorf("answered %q, want %q", got, want)
		}
		if took := time.Since(began); took < 5*time.Second || took > 7*time.Second {
			t.Errorf("after %s", took)
		}
		if details != detailTimeout {
			t.Errorf("details %q", details)
		}
		client.Close()
		<-done
	})
}

// readAll reads to the end, whatever that is.
func readAll(r io.Reader) string {
	var b strings.Builder
	_, _ = io.Copy(&b, r)
	return b.String()
}

// A client's stream that never had a head leaves no trace.
func TestStreamWithoutAHeadKeepsTheConnection(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.Reset(codec.Cancel)
	v.awaitRoom()
	r = v.open()
	r.s.SendHead(ask("GET", "/"), true)
	v.read("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	v.write(okText)
	r.awaitEnd(t)
	v.nc.Close()
	if e := v.ended(); e.Requests != 1 {
		t.Errorf("ended %+v", e)
	}
}
