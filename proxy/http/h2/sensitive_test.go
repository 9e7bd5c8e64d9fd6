package h2

import (
	"io"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// sensitive sends a header block whose fields are never indexed where their
// name is among never.
func (r *raw) sensitive(id uint32, end bool, never []string, kv ...string) {
	r.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		r.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1], Sensitive: slices.Contains(never, kv[i])})
	}
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: slices.Clone(r.block.Bytes()), EndStream: end, EndHeaders: true})
}

// neverIndexed is the next header block: by name whether a field is never indexed.
func (r *raw) neverIndexed() map[string]bool {
	r.t.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.t.Fatal(err)
		}
		h, ok := f.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		got := map[string]bool{}
		for _, f := range h.Fields {
			got[f.Name] = f.Sensitive
		}
		return got
	}
}

// What must not be in a table on one hop must not be on the next (RFC 7541,
// section 6.2.3).
func TestNeverIndexedFieldsStaySo(t *testing.T) {
	cn, down := memoryPair(t)
	up, sn := memoryPair(t)
	ends, _, _ := startBridge(t, down, up, Options{})
	client, server := newRaw(t, cn), newRaw(t, sn)
	io.WriteString(cn, preface)
	client.fr.WriteSettings()
	if _, err := io.ReadFull(sn, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	server.fr.WriteSettings()

	check := func(what string, got map[string]bool, want ...string) {
		t.Helper()
		for name, never := range got {
			if never != slices.Contains(want, name) {
				t.Errorf("%s: %s is never indexed: %t", what, name, never)
			}
		}
		for _, name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%s: %s is not there", what, name)
			}
		}
	}
	for i := range uint32(3) { // the second time the decoder has seen the literals, the third they are shown again
		id := 2*i + 1
		client.sensitive(id, false, []string{":path", "x-key", "cookie"},
			":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/secret", "x-key", "k", "cookie", "a=1", "cookie", "b=2", "x-open", "o")
		check("request", server.neverIndexed(), ":path", "x-key", "cookie")
		client.sensitive(id, true, []string{"x-end"}, "x-end", "e", "x-other", "o")
		check("trailers", server.neverIndexed(), "x-end")
		server.sensitive(id, true, []string{"set-cookie"}, ":status", "200", "set-cookie", "s=1", "x-open", "o")
		check("response", client.neverIndexed(), "set-cookie")
	}
	client.sensitive(7, true, nil, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/secret", "x-key", "k", "x-open", "o")
	check("the same fields, not sensitive", server.neverIndexed())
	cn.Close()
	sn.Close()
	ends()
}
