package h2

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

func fieldsOf(kv ...string) message.Fields {
	var f message.Fields
	for i := 0; i < len(kv); i += 2 {
		f.Add(kv[i], kv[i+1])
	}
	return f
}

const sentGet = "HEADERS 1 :method=GET :scheme=http :path=/ :authority=x end"

func TestClientJudgesResponses(t *testing.T) {
	ok := []string{":status", "200"}
	for name, c := range map[string]struct {
		method string
		do     func(r *raw)
		log    []string
		frame  string // the next, "" is none
	}{
		"head alone":   {"GET", func(r *raw) { r.headers(1, true, ok...) }, []string{"head 200 [] end=true"}, ""},
		"a body":       {"GET", func(r *raw) { r.headers(1, false, ok...); r.fr.WriteData(1, true, []byte("abc")) }, []string{"head 200 [] end=false", "data 3 end=true"}, ""},
		"an empty end": {"GET", func(r *raw) { r.headers(1, false, ok...); r.fr.WriteData(1, true, nil) }, []string{"head 200 [] end=false", "data 0 end=true"}, ""},
		"padding": {"GET", func(r *raw) {
			r.headers(1, false, ok...)
			r.fr.WriteDataPadded(1, true, []byte("abc"), make([]byte, 9))
		}, []string{"head 200 [] end=false", "data 3 end=true"}, ""},
		"trailers":        {"GET", func(r *raw) { r.headers(1, false, ok...); r.headers(1, true, "grpc-status", "0") }, []string{"head 200 [] end=false", "trailers [{grpc-status 0}]"}, ""},
		"informational":   {"GET", func(r *raw) { r.headers(1, false, ":status", "103", "link", "x"); r.headers(1, true, ok...) }, []string{"head 103 [{link x}] end=false", "head 200 [] end=true"}, ""},
		"answer to HEAD":  {"HEAD", func(r *raw) { r.headers(1, true, ":status", "200", "content-length", "10") }, []string{"head 200 [{content-length 10}] end=true"}, ""},
		"304 with length": {"GET", func(r *raw) { r.headers(1, true, ":status", "304", "content-length", "10") }, []string{"head 304 [{content-length 10}] end=true"}, ""},
		"body of HEAD":    {"HEAD", func(r *raw) { r.headers(1, false, ok...); r.fr.WriteData(1, true, []byte("a")) }, []string{"head 200 [] end=false", "reset 3 " + detailMessaging}, "RST 1 PROTOCOL_ERROR"},
		"short body": {"GET", func(r *raw) {
			r.headers(1, false, ":status", "200", "content-length", "2")
			r.fr.WriteData(1, true, []byte("a"))
		}, []string{"head 200 [{content-length 2}] end=false", "reset 3 " + detailMessaging}, "RST 1 PROTOCOL_ERROR"},
		"reset":        {"GET", func(r *raw) { r.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream) }, []string{"reset 4 http2.remote_refuse"}, ""},
		"reset, other": {"GET", func(r *raw) { r.fr.WriteRSTStream(1, 99) }, []string{"reset 8 http2.remote_reset"}, ""},

		"no status":              {"GET", func(r *raw) { r.headers(1, true, "a", "b") }, []string{"reset 3 " + detailMessaging}, "GOAWAY 0 PROTOCOL_ERROR"},
		"status of letters":      {"GET", func(r *raw) { r.headers(1, true, ":status", "2x0") }, []string{"reset 3 " + detailHeader}, "GOAWAY 0 PROTOCOL_ERROR"},
		"status 101":             {"GET", func(r *raw) { r.headers(1, false, ":status", "101") }, []string{"reset 3 " + detailHeader}, "GOAWAY 0 PROTOCOL_ERROR"},
		"informational end":      {"GET", func(r *raw) { r.headers(1, true, ":status", "100") }, []string{"reset 3 " + detailMessaging}, "GOAWAY 0 PROTOCOL_ERROR"},
		"a request's pseudo":     {"GET", func(r *raw) { r.headers(1, true, ":status", "200", ":path", "/") }, []string{"reset 3 " + detailHeader}, "GOAWAY 0 PROTOCOL_ERROR"},
		"upper case":             {"GET", func(r *raw) { r.headers(1, true, ":status", "200", "A", "b") }, []string{"reset 3 " + detailHeader}, "GOAWAY 0 PROTOCOL_ERROR"},
		"connection":             {"GET", func(r *raw) { r.headers(1, true, ":status", "200", "connection", "close") }, []string{"reset 3 " + detailHeader}, "GOAWAY 0 PROTOCOL_ERROR"},
		"DATA before the head":   {"GET", func(r *raw) { r.fr.WriteData(1, true, []byte("a")) }, []string{"reset 3 "}, "GOAWAY 0 PROTOCOL_ERROR"},
		"push":                   {"GET", func(r *raw) { r.fr.WriteRawFrame(http2.FramePushPromise, 4, 1, []byte{0, 0, 0, 2, 0x82}) }, []string{"reset 3 "}, "GOAWAY 0 PROTOCOL_ERROR"},
		"a stream of the server": {"GET", func(r *raw) { r.headers(2, true, ok...) }, []string{"reset 3 "}, "GOAWAY 0 PROTOCOL_ERROR"},
		"a stream never opened":  {"GET", func(r *raw) { r.headers(3, true, ok...) }, []string{"reset 3 "}, "GOAWAY 0 PROTOCOL_ERROR"},
		"push allowed":           {"GET", func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 2, Val: 1}) }, []string{"reset 3 "}, "GOAWAY 0 PROTOCOL_ERROR"},
		"too many fields": {"GET", func(r *raw) {
			kv := append([]string(nil), ok...)
			for range 100 {
				kv = append(kv, "a", "b")
			}
			r.headers(1, true, kv...)
		}, []string{"reset 8 " + detailTooMany}, "RST 1 INTERNAL_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			r, cl := rawServer(t, &pool{}, Options{})
			rec := open(t, cl)
			sendRequest(rec, c.method, true)
			r.want(strings.Replace(sentGet, "GET", c.method, 1))
			c.do(r)
			rec.wait(t, c.log[len(c.log)-1], func(log []string) bool { return len(log) >= len(c.log) })
			for i, got := range rec.lines() {
				if i >= len(c.log) || !strings.HasPrefix(got, c.log[i]) {
					t.Fatalf("got %q, want %q", rec.lines(), c.log)
				}
			}
			if c.frame != "" {
				r.want(c.frame)
			} else {
				r.sync()
			}
		})
	}
}

func TestClientIgnoresWhatComesOnStreamsItHasReset(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	rec := open(t, cl)
	sendRequest(rec, "GET", true)
	r.want(sentGet)
	rec.Reset(codec.Cancel)
	r.want("RST 1 CANCEL")
	r.headers(1, false, ":status", "200", "x-y", "z")
	r.fr.WriteData(1, false, []byte("abc"))
	r.headers(1, true, "x-y", "z") // the table knows it
	r.sync()
	rec2 := open(t, cl)
	sendRequest(rec2, "GET", true)
	r.want(strings.Replace(sentGet, "1", "3", 1))
	r.headers(3, true, ":status", "200", "x-y", "z")
	rec2.waitFor(t, "head 200 [{x-y z}] end=true")
	if log := rec.lines(); len(log) != 0 {
		t.Errorf("after Reset the receiver heard %q", log)
	}
}

func TestClientKeepsToTheServersLimitOfStreams(t *testing.T) {
	p := &pool{}
	freed := make(chan struct{}, 100)
	p.changed = func() { freed <- struct{}{} }
	r, cl := rawServer(t, p, Options{MaxConcurrentStreams: 3})
	if cl.Room() != 3 {
		t.Errorf("room: got %d, want our own limit of 3", cl.Room())
	}
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	<-freed
	r.sync()
	rec := open(t, cl)
	sendRequest(rec, "GET", true)
	if _, err := cl.Open(newRecorder()); !errors.Is(err, codec.ErrUnavailable) || cl.Room() != 0 {
		t.Errorf("second stream: got %v, room %d", err, cl.Room())
	}
	r.want(sentGet)
	r.headers(1, true, ":status", "204")
	<-freed
	for cl.Room() != 1 {
		<-freed
	}
	if cl.Active() != 0 || cl.Draining() {
		t.Errorf("got %d active, draining %v", cl.Active(), cl.Draining())
	}
}

func TestUpgradeIsExtendedConnectOnBothSides(t *testing.T) {
	q := newRecording(nil)
	d, _ := rawClient(t, q, Options{AllowConnect: true})
	d.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/chat", ":authority", "x", "origin", "y")
	rec := <-q.came
	rec.waitFor(t, "head GET https x /chat [{origin y} {upgrade websocket} {connection upgrade}] end=false")
	sendHead(rec, 101, false, "upgrade", "websocket", "connection", "upgrade", "content-length", "0", "a", "b")
	d.want("HEADERS 1 :status=200 a=b")
	rec.SendData([]byte("hello"), false)
	d.want("DATA 1 5")

	u, cl := rawServer(t, &pool{}, Options{})
	up := open(t, cl)
	sendRequest(up, "GET", false, "upgrade", "websocket", "connection", "upgrade", "origin", "y")
	u.want("HEADERS 1 :method=CONNECT :protocol=websocket :scheme=http :path=/ :authority=x origin=y")
	u.headers(1, false, ":status", "200", "a", "b")
	up.waitFor(t, "head 101 [{a b} {upgrade websocket} {connection upgrade}] end=false")

	refused := open(t, cl)
	sendRequest(refused, "GET", false, "upgrade", "websocket", "connection", "upgrade")
	u.next()
	u.headers(3, true, ":status", "403")
	refused.waitFor(t, "head 403 [] end=true")
}

func TestConnectStaysConnect(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	rec := open(t, cl)
	h := message.NewHead()
	h.Method, h.Authority = "CONNECT", "db:5432"
	rec.SendHead(h, false)
	r.want("HEADERS 1 :method=CONNECT :authority=db:5432")
	r.headers(1, false, ":status", "200", "content-length", "0")
	r.fr.WriteData(1, false, []byte("abc"))
	rec.waitFor(t, "data 3 end=false")
}

func TestFieldsOfHTTP1AreLeftOut(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	rec := open(t, cl)
	sendRequest(rec, "POST", false, "connection", "close", "keep-alive", "1", "proxy-connection", "x", "transfer-encoding", "chunked", "te", "gzip", "host", "y", "a", "b")
	r.want("HEADERS 1 :method=POST :scheme=http :path=/ :authority=x a=b")
	rec.SendTrailers(fieldsOf("te", "trailers", "connection", "x", ":status", "1"))
	r.want("HEADERS 1 te=trailers end")
	rec = open(t, cl)
	sendRequest(rec, "POST", false)
	r.next()
	rec.SendTrailers(nil)
	r.want("DATA 3 0 end")
}

func TestHeadLargerThanAFrameIsContinued(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	r.fr.MaxHeaderListSize = 1 << 20
	r.fr.SetMaxReadFrameSize(16384)
	rec := open(t, cl)
	long := strings.Repeat("0123456789", 5000)
	sendRequest(rec, "GET", true, "long", long, "short", "x")
	r.want("HEADERS 1 :method=GET :scheme=http :path=/ :authority=x long=" + long + " short=x end")
}

func TestEncoderKeepsToTheTableOfThePeer(t *testing.T) {
	for _, size := range []uint32{0, 100, 4096, 1 << 20} {
		r, cl := rawServer(t, &pool{}, Options{})
		r.fr.ReadMetaHeaders.SetMaxDynamicTableSize(min(size, 4096))
		r.fr.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(size)
		r.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: size})
		r.sync()
		for i := range 3 {
			rec := open(t, cl)
			sendRequest(rec, "GET", true, "x-request-id", "1", "a", "b", "c", strings.Repeat("d", 60))
			want := strings.Replace(sentGet, "1", string(rune('1'+2*i)), 1)
			r.want(strings.TrimSuffix(want, " end") + " x-request-id=1 a=b c=" + strings.Repeat("d", 60) + " end")
		}
	}
}

func TestTableSizeIsToldAtTheBeginningOfABlock(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	rec := open(t, cl)
	sendRequest(rec, "POST", false)
	r.next()
	r.fr.ReadMetaHeaders.SetMaxDynamicTableSize(100)
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 100})
	r.sync()
	rec.SendTrailers(fieldsOf("etag", "x", "a", "b"))
	r.want("HEADERS 1 etag=x a=b end")
}
