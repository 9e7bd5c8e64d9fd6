package h2

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// part begins a header block.
func part(r *raw, id uint32) {
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82}, EndStream: true})
}

// hold makes a request that is not answered, and whose body is not consumed.
func hold(r *raw, id uint32, end bool) {
	r.headers(id, end, ":method", "GET", ":scheme", "http", ":path", "/hold", ":authority", "x")
}

// fill sends n frames of DATA on stream 1.
func fill(r *raw, n int) {
	for range n {
		r.fr.WriteData(1, false, make([]byte, 16384))
	}
}

// What a client does wrong, and how it is told. The cases are those of h2spec,
// and of RFC 9113 and 7541 beside it. A case may be answered first ("HEADERS"
// and "DATA" of stream 1 are passed over).
func TestServerAnswersEachFaultAsTheRFCSays(t *testing.T) {
	const (
		goProtocol = "GOAWAY PROTOCOL_ERROR"
		goSize     = "GOAWAY FRAME_SIZE_ERROR"
		goFlow     = "GOAWAY FLOW_CONTROL_ERROR"
		goClosed   = "GOAWAY STREAM_CLOSED"
		goHPACK    = "GOAWAY COMPRESSION_ERROR"
		none       = "PING ack=true syncsync"
	)
	get := func(r *raw, end bool, kv ...string) { r.get(1, end, kv...) }
	for name, c := range map[string]struct {
		do   func(r *raw)
		want string
	}{
		"a frame of unknown type is ignored": {func(r *raw) { r.fr.WriteRawFrame(0x16, 0xff, 0, []byte("12345678")) }, none},
		"unknown flags are ignored":          {func(r *raw) { r.fr.WriteRawFrame(http2.FramePing, 0x16, 0, []byte("12345678")) }, "PING ack=true 12345678"},
		"the reserved bit is ignored":        {func(r *raw) { r.nc.Write([]byte{0, 0, 8, 6, 0, 0x80, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}) }, "PING ack=true \x01\x02\x03\x04\x05\x06\x07\x08"},
		"DATA larger than the frame size":    {func(r *raw) { get(r, false); r.fr.WriteData(1, true, make([]byte, 16385)) }, goSize},
		"HEADERS larger than the frame size": {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 1, make([]byte, 16385)) }, goSize},

		"bad index":               {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0xff, 0x80, 0x10}) }, goHPACK},
		"index 0":                 {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0x80}) }, goHPACK},
		"a block cut short":       {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0x40, 5, 'a'}) }, goHPACK},
		"a table too large":       {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0x3f, 0xe2, 0x1f}) }, goHPACK},
		"a table size at the end": {func(r *raw) { get(r, true, "a", "b"); r.fr.WriteRawFrame(http2.FrameHeaders, 5, 3, []byte{0x82, 0x20}) }, goHPACK},

		"PRIORITY within a block":          {func(r *raw) { part(r, 1); r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }, goProtocol},
		"a block of another stream within": {func(r *raw) { part(r, 1); get(r, true) }, goProtocol},
		"an unknown frame within a block":  {func(r *raw) { part(r, 1); r.fr.WriteRawFrame(0x16, 0, 0, nil) }, goProtocol},
		"CONTINUATION of another stream":   {func(r *raw) { part(r, 1); r.fr.WriteContinuation(3, true, nil) }, goProtocol},
		"CONTINUATION on stream 0":         {func(r *raw) { part(r, 1); r.fr.WriteContinuation(0, true, []byte{0x82}) }, goProtocol},
		"CONTINUATION after a whole block": {func(r *raw) { get(r, false); r.fr.WriteContinuation(1, true, []byte{0x82}) }, goProtocol},
		"CONTINUATION after CONTINUATION end": {func(r *raw) {
			part(r, 1)
			r.fr.WriteContinuation(1, true, []byte{0x86, 0x84, 0x41, 1, 'x'})
			r.fr.WriteContinuation(1, true, []byte{0x82})
		}, goProtocol},

		"DATA on an idle stream":          {func(r *raw) { r.fr.WriteData(1, true, []byte("x")) }, goProtocol},
		"RST_STREAM on an idle stream":    {func(r *raw) { r.fr.WriteRSTStream(1, 8) }, goProtocol},
		"WINDOW_UPDATE on an idle stream": {func(r *raw) { r.fr.WriteWindowUpdate(1, 100) }, goProtocol},
		"DATA after the end":              {func(r *raw) { hold(r, 1, true); r.fr.WriteData(1, true, []byte("x")) }, goClosed},
		"HEADERS after the end":           {func(r *raw) { hold(r, 1, true); get(r, true) }, goClosed},
		"DATA on a closed stream": {func(r *raw) {
			get(r, true)
			r.want("HEADERS 1 :status=200", "DATA 1 2 end")
			r.fr.WriteData(1, true, []byte("x"))
		}, "RST 1 STREAM_CLOSED"},
		"HEADERS on a closed stream":  {func(r *raw) { get(r, true); r.want("HEADERS 1 :status=200", "DATA 1 2 end"); get(r, true) }, goClosed},
		"DATA after RST_STREAM":       {func(r *raw) { get(r, false); r.fr.WriteRSTStream(1, 8); r.fr.WriteData(1, true, []byte("x")) }, "RST 1 STREAM_CLOSED"},
		"HEADERS after RST_STREAM":    {func(r *raw) { get(r, false); r.fr.WriteRSTStream(1, 8); get(r, true) }, goClosed},
		"a request on an even stream": {func(r *raw) { r.get(2, true) }, goProtocol},
		"a request on a lower stream": {func(r *raw) { r.get(5, true); r.want("HEADERS 5 :status=200", "DATA 5 2 end"); r.get(3, true) }, goClosed},

		"DATA on stream 0":                   {func(r *raw) { r.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }, goProtocol},
		"padding as long as DATA":            {func(r *raw) { get(r, false); r.fr.WriteRawFrame(http2.FrameData, 9, 1, []byte{5, 0, 0, 0, 0}) }, goProtocol},
		"padded DATA of no bytes":            {func(r *raw) { get(r, false); r.fr.WriteRawFrame(http2.FrameData, 9, 1, nil) }, goSize},
		"HEADERS on stream 0":                {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 5, 0, []byte{0x82}) }, goProtocol},
		"padding as long as HEADERS":         {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 13, 1, []byte{3, 0x82, 0x86}) }, goProtocol},
		"HEADERS too short for its priority": {func(r *raw) { r.fr.WriteRawFrame(http2.FrameHeaders, 0x25, 1, []byte{0, 0, 0}) }, goSize},
		"a stream that depends on itself":    {func(r *raw) { r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 1}) }, goProtocol},
		"PRIORITY on stream 0":               {func(r *raw) { r.fr.WritePriority(0, http2.PriorityParam{StreamDep: 1}) }, goProtocol},
		"PRIORITY of 4 bytes":                {func(r *raw) { r.fr.WriteRawFrame(http2.FramePriority, 0, 1, make([]byte, 4)) }, goSize},
		"RST_STREAM on stream 0":             {func(r *raw) { r.fr.WriteRSTStream(0, 8) }, goProtocol},
		"RST_STREAM of 3 bytes":              {func(r *raw) { get(r, false); r.fr.WriteRawFrame(http2.FrameRSTStream, 0, 1, make([]byte, 3)) }, goSize},

		"SETTINGS ack with payload":         {func(r *raw) { r.fr.WriteRawFrame(http2.FrameSettings, 1, 0, make([]byte, 6)) }, goSize},
		"SETTINGS on a stream":              {func(r *raw) { r.fr.WriteRawFrame(http2.FrameSettings, 0, 1, make([]byte, 6)) }, goProtocol},
		"SETTINGS of 5 bytes":               {func(r *raw) { r.fr.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }, goSize},
		"SETTINGS_ENABLE_PUSH of 2":         {func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 2, Val: 2}) }, goProtocol},
		"SETTINGS_INITIAL_WINDOW_SIZE 2^31": {func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 4, Val: 1 << 31}) }, goFlow},
		"SETTINGS_MAX_FRAME_SIZE too small": {func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 5, Val: 16383}) }, goProtocol},
		"SETTINGS_MAX_FRAME_SIZE too large": {func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 5, Val: 1 << 24}) }, goProtocol},
		"an unknown setting":                {func(r *raw) { r.fr.WriteSettings(http2.Setting{ID: 0xff, Val: 1}) }, none},
		"PUSH_PROMISE":                      {func(r *raw) { r.fr.WriteRawFrame(http2.FramePushPromise, 4, 1, []byte{0, 0, 0, 2, 0x82}) }, goProtocol},
		"PING on a stream":                  {func(r *raw) { r.fr.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }, goProtocol},
		"PING of 6 bytes":                   {func(r *raw) { r.fr.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 6)) }, goSize},
		"a PING ack that nobody asked for":  {func(r *raw) { r.fr.WritePing(true, [8]byte{}) }, none},
		"GOAWAY on a stream":                {func(r *raw) { r.fr.WriteRawFrame(http2.FrameGoAway, 0, 1, make([]byte, 8)) }, goProtocol},
		"GOAWAY of 7 bytes":                 {func(r *raw) { r.fr.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) }, goSize},
		"GOAWAY with an unknown code":       {func(r *raw) { r.fr.WriteGoAway(0, 0xff, nil) }, none},
		"RST_STREAM with an unknown code":   {func(r *raw) { get(r, false); r.fr.WriteRSTStream(1, 0xff) }, none},

		"WINDOW_UPDATE of 0":               {func(r *raw) { r.fr.WriteWindowUpdate(0, 0) }, goProtocol},
		"WINDOW_UPDATE of 0 on a stream":   {func(r *raw) { hold(r, 1, true); r.fr.WriteWindowUpdate(1, 0) }, goProtocol},
		"WINDOW_UPDATE of 3 bytes":         {func(r *raw) { r.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 3)) }, goSize},
		"a window over 2^31-1":             {func(r *raw) { r.fr.WriteWindowUpdate(0, 1<<31-1) }, goFlow},
		"a window over 2^31-1 of a stream": {func(r *raw) { hold(r, 1, true); r.fr.WriteWindowUpdate(1, 1<<31-1) }, "RST 1 FLOW_CONTROL_ERROR"},
		"a window over 2^31-1 by SETTINGS": {func(r *raw) {
			hold(r, 1, true)
			r.fr.WriteWindowUpdate(1, 1<<31-1-65535)
			r.fr.WriteSettings(http2.Setting{ID: 4, Val: 65536})
		}, goFlow},
		"WINDOW_UPDATE on a closed stream": {func(r *raw) {
			get(r, true)
			r.want("HEADERS 1 :status=200", "DATA 1 2 end")
			r.fr.WriteWindowUpdate(1, 1)
		}, none},
		"PRIORITY on a closed stream": {func(r *raw) {
			get(r, true)
			r.want("HEADERS 1 :status=200", "DATA 1 2 end")
			r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
		}, none},
		"RST_STREAM on a closed stream":      {func(r *raw) { get(r, true); r.want("HEADERS 1 :status=200", "DATA 1 2 end"); r.fr.WriteRSTStream(1, 8) }, none},
		"more streams than are allowed":      {func(r *raw) { hold(r, 1, true); hold(r, 3, true); r.get(5, true) }, "RST 5 REFUSED_STREAM"},
		"a body shorter than content-length": {func(r *raw) { get(r, false, "content-length", "4"); r.fr.WriteData(1, true, []byte("abc")) }, "RST 1 PROTOCOL_ERROR"},
		"a body longer than content-length":  {func(r *raw) { get(r, false, "content-length", "4"); r.fr.WriteData(1, false, []byte("abcde")) }, "RST 1 PROTOCOL_ERROR"},
		"trailers before all of a body":      {func(r *raw) { get(r, false, "content-length", "4"); r.headers(1, true, "a", "b") }, "RST 1 PROTOCOL_ERROR"},
		"DATA and padding beyond the window": {func(r *raw) {
			hold(r, 1, false)
			fill(r, 4)
			r.fr.WriteDataPadded(1, true, make([]byte, 16000), make([]byte, 200))
		}, "RST 1 FLOW_CONTROL_ERROR"},
		"trailers that do not end the stream": {func(r *raw) { get(r, false); r.headers(1, false, "a", "b") }, goProtocol},
		"trailers with a pseudo-header":       {func(r *raw) { get(r, false); r.headers(1, true, ":path", "/") }, goProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := rawClient(t, newRecording(echoing), Options{MaxConcurrentStreams: 2, InitialStreamWindow: 70000})
			c.do(r)
			r.fr.WritePing(false, [8]byte{'s', 'y', 'n', 'c', 's', 'y', 'n', 'c'})
			got := r.next()
			for strings.HasPrefix(got, "HEADERS") || strings.HasPrefix(got, "DATA") {
				got = r.next()
			}
			if f := strings.Fields(got); f[0] == "GOAWAY" {
				got = f[0] + " " + f[2]
			}
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if strings.HasPrefix(got, "GOAWAY") {
				if next := r.next(); next != "EOF" {
					t.Errorf("after GOAWAY: got %q, want EOF", next)
				}
			}
		})
	}
}

// What Envoy 1.40 takes and refuses of a request's head; it was asked.
func TestServerJudgesHeadsAsEnvoyDoes(t *testing.T) {
	replace := func(name, value string) []string {
		kv := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"}
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				kv[i+1] = value
				return kv
			}
		}
		return append(kv, name, value)
	}
	const header, messaging = detailHeader, detailMessaging
	for name, c := range map[string]struct {
		kv   []string
		want string // the detail of what is refused, or the head
	}{
		"good":                      {replace("a", "b"), "head GET http x / [{a b}] end=true"},
		"blanks around a value":     {replace("a", " \tb "), "head GET http x / [{a b}] end=true"},
		"blanks alone":              {replace("a", "  "), "head GET http x / [{a }] end=true"},
		"a tab within a value":      {replace("a", "b\tc"), "head GET http x / [{a b\tc}] end=true"},
		"obs-text in a value":       {replace("a", "\xff"), "head GET http x / [{a \xff}] end=true"},
		"a control character":       {replace("a", "b\x01"), header},
		"DEL":                       {replace("a", "b\x7f"), header},
		"LF":                        {replace("a", "b\nc"), header},
		"CR":                        {replace("a", "b\rc"), header},
		"NUL":                       {replace("a", "b\x00c"), header},
		"an upper-case name":        {replace("Ab", "b"), header},
		"an empty name":             {replace("", "b"), header},
		"a name with a blank":       {replace("a b", "b"), header},
		"a name with a colon":       {replace("a:b", "b"), header},
		"a name with underscore":    {replace("a_b", "c"), "head GET http x / [{a_b c}] end=true"},
		"connection":                {replace("connection", "close"), header},
		"keep-alive":                {replace("keep-alive", "1"), header},
		"proxy-connection":          {replace("proxy-connection", "close"), header},
		"transfer-encoding":         {replace("transfer-encoding", "chunked"), header},
		"upgrade":                   {replace("upgrade", "websocket"), header},
		"te: gzip":                  {replace("te", "gzip"), header},
		"te: trailers":              {replace("te", "trailers"), "head GET http x / [{te trailers}] end=true"},
		"host beside authority":     {replace("host", "y"), "head GET http x / [] end=true"},
		"host alone":                {[]string{":method", "GET", ":scheme", "http", ":path", "/", "host", "y"}, "head GET http y / [] end=true"},
		"two hosts":                 {append(replace("host", "y"), "host", "z"), header},
		"no authority":              {[]string{":method", "GET", ":scheme", "http", ":path", "/"}, header},
		"an empty authority":        {replace(":authority", ""), header},
		"a user in the authority":   {replace(":authority", "u@x"), header},
		"a blank in the authority":  {replace(":authority", "x y"), header},
		"an IPv6 authority":         {replace(":authority", "[::1]:80"), "head GET http [::1]:80 / [] end=true"},
		"a path without slash":      {replace(":path", "a"), header},
		"an empty path":             {replace(":path", ""), header},
		"a path with a blank":       {replace(":path", "/a b"), header},
		"a path with obs-text":      {replace(":path", "/\xff"), "head GET http x /\xff [] end=true"},
		"a path with a fragment":    {replace(":path", "/a#b"), "head GET http x /a#b [] end=true"},
		"* for GET":                 {replace(":path", "*"), header},
		"* for OPTIONS":             {[]string{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "x"}, "head OPTIONS http x * [] end=true"},
		"a method with a blank":     {replace(":method", "G T"), header},
		"no method":                 {[]string{":scheme", "http", ":path", "/", ":authority", "x"}, header},
		"two methods":               {[]string{":method", "GET", ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"}, header},
		"two paths":                 {[]string{":method", "GET", ":scheme", "http", ":path", "/", ":path", "/", ":authority", "x"}, header},
		"two schemes":               {[]string{":method", "GET", ":scheme", "http", ":scheme", "http", ":path", "/", ":authority", "x"}, header},
		"two authorities":           {[]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x", ":authority", "x"}, header},
		"no scheme":                 {[]string{":method", "GET", ":path", "/", ":authority", "x"}, header},
		"another scheme":            {replace(":scheme", "ftp"), "head GET ftp x / [] end=true"},
		"a scheme with a blank":     {replace(":scheme", "h p"), header},
		"no path":                   {[]string{":method", "GET", ":scheme", "http", ":authority", "x"}, header},
		"an unknown pseudo-header":  {replace(":foo", "b"), header},
		"a pseudo-header of answer": {replace(":status", "200"), header},
		"a pseudo-header late":      {[]string{":method", "GET", "a", "b", ":scheme", "http", ":path", "/", ":authority", "x"}, header},
		"content-length of letters": {replace("content-length", "abc"), header},
		"content-length with sign":  {replace("content-length", "+0"), header},
		"content-length twice":      {append(replace("content-length", "0"), "content-length", "0"), header},
		"content-length, no body":   {replace("content-length", "5"), header},
		"content-length 0":          {replace("content-length", "0"), "head GET http x / [{content-length 0}] end=true"},
		"cookies are joined":        {append(replace("cookie", "a=1"), "x", "y", "cookie", "b=2", "cookie", "c=3"), "head GET http x / [{cookie a=1; b=2; c=3} {x y}] end=true"},
		"empty cookies":             {append(replace("cookie", ""), "cookie", "b=2", "cookie", ""), "head GET http x / [{cookie b=2}] end=true"},
		"CONNECT":                   {[]string{":method", "CONNECT", ":authority", "x:1"}, "head CONNECT  x:1  [] end=true"},
		"CONNECT with a path":       {[]string{":method", "CONNECT", ":path", "/", ":authority", "x:1"}, messaging},
		"CONNECT with a scheme":     {[]string{":method", "CONNECT", ":scheme", "http", ":authority", "x:1"}, messaging},
		"extended CONNECT":          {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "x"}, header},
	} {
		for _, streamOnly := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				q := newRecording(echoing)
				r, _ := rawClient(t, q, Options{StreamErrorsOnly: streamOnly})
				r.headers(1, true, c.kv...)
				rec := <-q.came
				if strings.HasPrefix(c.want, "head") {
					rec.waitFor(t, c.want)
					r.want("HEADERS 1 :status=200", "DATA 1 2 end")
					return
				}
				rec.waitFor(t, "reset 3 "+c.want)
				if len(rec.lines()) != 1 {
					t.Errorf("got %q, want the reset alone", rec.lines())
				}
				if streamOnly {
					r.want("RST 1 PROTOCOL_ERROR")
					r.sync()
				} else {
					r.want("GOAWAY 1 PROTOCOL_ERROR", "EOF")
				}
			})
		}
	}
}
