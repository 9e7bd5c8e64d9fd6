package accesslog

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// The files http-*.txt are what Envoy 1.40 printed for requests.
func TestOperatorsPrintOfRequestsWhatEnvoyPrints(t *testing.T) {
	for name, request := range map[string]func(testing.TB, golden) *flow.Info{
		"http-request.txt": overHTTP1, "http-grpc.txt": overGRPC, "http-noroute.txt": withoutRoute,
	} {
		t.Run(name, func(t *testing.T) {
			envoy := readGolden(t, name)
			info := request(t, envoy)
			for _, op := range envoy.order {
				if differentOfRequests(name)[op] || strings.HasPrefix(op, "DYNAMIC_METADATA(envoy.test") {
					continue
				}
				got, err := printRequest(op, info)
				if err != nil {
					t.Errorf("%%%s%%: %v", op, err)
				} else if got != envoy.values[op] {
					t.Errorf("%%%s%%: got %q, Envoy has %q", op, got, envoy.values[op])
				}
			}
		})
	}
}

// differentOfRequests are where we differ on purpose; the reasons are in
// knownDifferences.
func differentOfRequests(file string) map[string]bool {
	out := map[string]bool{}
	for op := range knownDifferences(file) {
		out[op] = op != "UPSTREAM_CONNECTION_ID"
	}
	for _, name := range []string{ // HTTP/2: ours have no count of compressed bytes
		"DOWNSTREAM_HEADER_BYTES_RECEIVED", "DOWNSTREAM_HEADER_BYTES_SENT", "UPSTREAM_HEADER_BYTES_RECEIVED", "UPSTREAM_HEADER_BYTES_SENT",
	} {
		out[name] = file == "http-grpc.txt"
	}
	out["RESPONSE_HEADERS_BYTES"] = file == "http-grpc.txt" // the Info has not all fields
	return out
}

func printRequest(op string, info *flow.Info) (string, error) {
	f, err := parse("%" + op + "%")
	if err != nil {
		return "", err
	}
	return string(f.text(nil, &entry{info: info, event: "DownstreamEnd", now: info.End}, false)), nil
}

// requestOf has what is measured, and what is the same in all requests.
func requestOf(t testing.TB, g golden) *flow.Info {
	i := overTCP(t, g)
	i.FilterChain, i.FilterState = "chain-http", nil
	i.UpstreamCluster, i.Upstream = g.values["UPSTREAM_CLUSTER_RAW"], nil
	after := func(name string) time.Time {
		if g.values["COMMON_DURATION(DS_RX_BEG:"+name+":us)"] == "-" {
			return time.Time{}
		}
		return i.Start.Add(time.Duration(g.number("COMMON_DURATION(DS_RX_BEG:"+name+":us)")) * time.Microsecond)
	}
	i.HTTP = &flow.HTTP{
		Protocol: codec.HTTP11, Upstream: codec.HTTP11, Details: "via_upstream", Status: int(g.number("RESPONSE_CODE")),
		Request: message.NewHead(), Response: message.NewHead(), Attempts: 1,
		UpstreamConnID:   uint64(g.number("UPSTREAM_CONNECTION_ID")),
		LastDownstreamRx: after("DS_RX_END"), FirstUpstreamTx: after("US_TX_BEG"), LastUpstreamTx: after("US_TX_END"),
		FirstUpstreamRx: after("US_RX_BEG"), FirstUpstreamBodyRx: after("US_RX_BODY_BEG"), LastUpstreamRx: after("US_RX_END"),
		FirstDownstreamTx: after("DS_TX_BEG"), LastDownstreamTx: after("DS_TX_END"),
		DownstreamWireReceived: uint64(g.number("DOWNSTREAM_WIRE_BYTES_RECEIVED")), DownstreamWireSent: uint64(g.number("DOWNSTREAM_WIRE_BYTES_SENT")),
		UpstreamWireReceived: uint64(g.number("UPSTREAM_WIRE_BYTES_RECEIVED")), UpstreamWireSent: uint64(g.number("UPSTREAM_WIRE_BYTES_SENT")),
		RequestHeadBytes:     int(g.number("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED")),
		ResponseHeadBytes:    int(g.number("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT")),
		UpstreamHeadReceived: int(g.number("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED")),
		UpstreamHeadSent:     int(g.number("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT")),
	}
	i.HTTP.Response.Status = i.HTTP.Status
	i.HTTP.PoolReady = i.Start
	i.UpstreamDial, i.UpstreamDialed = after("US_CX_BEG"), after("US_CX_END")
	if us := g.number("COMMON_DURATION(US_CX_BEG:US_CX_END:us)"); i.UpstreamDialed.Sub(i.UpstreamDial).Microseconds() > us {
		i.UpstreamDial = i.UpstreamDial.Add(500) // each of the three was rounded down
	}
	i.Received.Store(uint64(g.number("BYTES_RECEIVED")))
	i.Sent.Store(uint64(g.number("BYTES_SENT")))
	return i
}

func structsOf(t testing.TB, ns, key, value string) map[string]*structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(map[string]any{key: value})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*structpb.Struct{ns: s}
}

func addAll(f *message.Fields, pairs ...string) {
	for n := 0; n < len(pairs); n += 2 {
		f.Add(pairs[n], pairs[n+1])
	}
}

func overHTTP1(t testing.TB, g golden) *flow.Info {
	i := requestOf(t, g)
	h := i.HTTP
	h.VirtualCluster, h.RouteName, h.RouteMetadata = "vc", "route-a", structsOf(t, "rm", "k", "rv")
	r := h.Request
	r.Method, r.Scheme, r.Authority, r.Path = "POST", "http", "web.example", "/z/b?x=1&y=%41%20c&x=2"
	addAll(&r.Fields, "user-agent", "probe 1", "x-forwarded-for", "10.0.0.9", "x-two", "1", "x-two", "2", "accept", "a", "accept", "b",
		"via", "p", "via", "q", "x-request-id", g.values["REQ(X-REQUEST-ID)"], "content-length", "3", "x-forwarded-proto", "http",
		"x-envoy-original-path", "/a/b?x=1&y=%41%20c&x=2", "x-envoy-expected-rq-timeout-ms", "15000")
	addAll(&h.Response.Fields, "date", "Mon, 23 Nov 2026 00:00:00 GMT", "x-resp", "one", "x-resp", "two", "x-up-bytes", "9",
		"content-length", "6", "content-type", "text/plain; charset=utf-8", "x-envoy-upstream-service-time", "0", "server", "envoy")
	return i
}

func overGRPC(t testing.TB, g golden) *flow.Info {
	i := requestOf(t, g)
	h := i.HTTP
	h.Protocol, h.Upstream, h.RouteName, h.VirtualCluster = codec.HTTP2, codec.HTTP2, "route-grpc", g.values["VIRTUAL_CLUSTER_NAME"]
	r := h.Request
	r.Method, r.Scheme, r.Authority, r.Path = "POST", "http", g.values["REQ(:AUTHORITY)"], "/grpc.S/M"
	addAll(&r.Fields, "user-agent", "g", "content-type", "application/grpc", "x-request-id", "6f8c2a01-1111-4222-8333-444455556666",
		"want", "5", "accept-encoding", "gzip", "x-forwarded-proto", "http", "x-envoy-expected-rq-timeout-ms", "15000", "content-length", "6")
	addAll(&h.Response.Fields, "date", "Mon, 23 Nov 2026 00:00:00 GMT", "x-resp", "one", "x-resp", "two", "x-up-bytes", "9",
		"content-type", "application/grpc")
	addAll(&h.ResponseTrailers, "grpc-status", "5", "grpc-message", "over", "x-t", "tv")
	return i
}

func withoutRoute(t testing.TB, g golden) *flow.Info {
	i := requestOf(t, g)
	h := i.HTTP
	h.Upstream, h.Attempts, h.Details, h.LocalReply, h.VirtualCluster = 0, 0, "route_not_found", true, g.values["VIRTUAL_CLUSTER_NAME"]
	i.UpstreamCluster, i.UpstreamClusterStat, i.UpstreamHost, i.UpstreamHostname, i.UpstreamLocal = "", "", flow.Addr{}, "", flow.Addr{}
	i.ClusterMetadata, i.UpstreamMetadata, i.UpstreamDialed, i.UpstreamConnected = nil, nil, time.Time{}, time.Time{}
	h.PoolReady = time.Time{}
	i.Flags.Set(flow.NoRouteFound)
	r := h.Request
	r.Method, r.Scheme, r.Authority, r.Path = "GET", "http", "a", "/none"
	addAll(&r.Fields, "x-forwarded-proto", "http", "x-request-id", g.values["REQ(X-REQUEST-ID)"])
	addAll(&h.Response.Fields, "date", "Mon, 23 Nov 2026 00:00:00 GMT", "server", "envoy")
	return i
}

func TestOperatorsOfRequestsPrint(t *testing.T) {
	start := time.Unix(1, 0)
	request := func(change func(*flow.HTTP)) *flow.Info {
		i := &flow.Info{Start: start, End: start, HTTP: &flow.HTTP{Request: message.NewHead()}}
		i.HTTP.Request.Method = "GET"
		change(i.HTTP)
		return i
	}
	grpc := func(status string, http int) *flow.Info {
		return request(func(h *flow.HTTP) {
			h.Request.Fields.Add("content-type", "application/grpc+proto")
			h.Status = http
			if status != "" {
				h.ResponseTrailers.Add("grpc-status", status)
			}
		})
	}
	closed := request(func(h *flow.HTTP) {
		h.UpstreamFailure = &codec.End{
			By: codec.ByFIN, BytesRead: 1234, BytesWritten: 99, Requests: 12,
			Opened: start, LastRead: start.Add(25100 * time.Millisecond), At: start.Add(30100 * time.Millisecond),
		}
	})
	failed := request(func(h *flow.HTTP) {
		h.UpstreamFailure = &codec.End{By: codec.ByTLS, Err: errors.New("remote error:\ntls: \"bad\""), GoAway: true, Opened: start, At: start.Add(2 * time.Second), Requests: 1}
	})
	path := func(p string) *flow.Info { return request(func(h *flow.HTTP) { h.Request.Path = p }) }
	for _, c := range []struct {
		claim, op string
		info      *flow.Info
		want      string
	}{
		{"a connection has no close of an upstream that had requests", "OUTRIDER_UPSTREAM_CLOSE", &flow.Info{}, "-"},
		{"nor a request that did not fail so", "OUTRIDER_UPSTREAM_CLOSE", request(func(*flow.HTTP) {}), "-"},
		{"all of a close", "OUTRIDER_UPSTREAM_CLOSE", closed, "closed_by=fin requests=12 age=30.100s idle=5.000s read=1234 written=99 goaway=false"},
		{"who closed", "OUTRIDER_UPSTREAM_CLOSE(BY)", closed, "fin"},
		{"how many requests", "OUTRIDER_UPSTREAM_CLOSE(REQUESTS)", closed, "12"},
		{"an end in order has no error", "OUTRIDER_UPSTREAM_CLOSE(ERROR)", closed, "-"},
		{"idle since it was opened if nothing came", "OUTRIDER_UPSTREAM_CLOSE(IDLE)", failed, "2.000s"},
		{"an error is one line", "OUTRIDER_UPSTREAM_CLOSE(ERROR)", failed, `remote error:\x0atls: "bad"`},
		{"goaway", "OUTRIDER_UPSTREAM_CLOSE(GOAWAY)", failed, "true"},

		{"a status that has no name", "GRPC_STATUS", grpc("99", 200), "99"},
		{"a status that is none", "GRPC_STATUS", grpc("x", 200), "-1"},
		{"two Ls", "GRPC_STATUS(SNAKE_STRING)", grpc("1", 200), "CANCELLED"},
		{"one L", "GRPC_STATUS", grpc("1", 200), "Canceled"},
		{"words", "GRPC_STATUS(SNAKE_STRING)", grpc("8", 200), "RESOURCE_EXHAUSTED"},
		{"made of the HTTP status", "GRPC_STATUS", grpc("", 503), "Unavailable"},
		{"no answer, no status", "GRPC_STATUS_NUMBER", grpc("", 0), "-"},
		{"not of a request that is not gRPC", "GRPC_STATUS", request(func(h *flow.HTTP) { h.ResponseTrailers.Add("grpc-status", "5") }), "-"},

		{"not of a content type that only begins so", "GRPC_STATUS", request(func(h *flow.HTTP) {
			h.Request.Fields.Add("content-type", "application/grpc-web")
			h.ResponseTrailers.Add("grpc-status", "5")
		}), "-"},

		{"a flag is there", "QUERY_PARAM(f)", path("/?a=1&f"), ""},
		{"the first", "QUERY_PARAM(a)", path("/?a=1&a=2"), "1"},
		{"a name is decoded", "QUERY_PARAM(z)", path("/?%7a=%41+"), "A+"},
		{"no query", "QUERY_PARAM(a)", path("/a=1"), "-"},
		{"only some are decoded", "QUERY_PARAMS(DECODED)", path("/?%41%20%2f%7C%zz%4"), "A%20/%7Czz4"},
		{"without the query", "PATH(NQ)", path("/a?b"), "/a"},
		{"there is no original path", "PATH(WQ:ORIG)", path("/a?b"), "-"},

		{"a head that did not come", "RESP(A)", path("/"), "-"},
		{"spaces", "RESPONSE_CODE_DETAILS", request(func(h *flow.HTTP) { h.Details = "a b" }), "a_b"},
		{"spaces if wanted", "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)", request(func(h *flow.HTTP) { h.Details = "a b" }), "a b"},
		{"what we answered", "LOCAL_REPLY_BODY", request(func(h *flow.HTTP) { h.LocalReplyBody = "no" }), "no"},
		{"the request's ID", "STREAM_ID", request(func(h *flow.HTTP) { h.RequestID = "id" }), "id"},
		{"no ID", "STREAM_ID", path("/"), "-"},
	} {
		if got, err := printRequest(c.op, c.info); err != nil || got != c.want {
			t.Errorf("%s: %%%s%%: got %q, %v, want %q", c.claim, c.op, got, err, c.want)
		}
	}
	op, _ := parse("%OUTRIDER_UPSTREAM_CLOSE%")
	got, _ := typed{op[0].operator}.append(nil, &entry{info: failed}, false)
	want := `{"closed_by":"tls","requests":1,"age_ms":2000,"idle_ms":2000,"read":0,"written":0,"goaway":true,"error":"remote error:\ntls: \"bad\""}`
	if string(got) != want {
		t.Errorf("in JSON: got %s, want %s", got, want)
	}
}

func TestFiltersOfRequests(t *testing.T) {
	yes, no, half, fine := true, false, uint32(500_000), uint32(100)
	info := func(change func(*flow.HTTP)) *flow.Info {
		i := &flow.Info{HTTP: &flow.HTTP{Request: message.NewHead(), Status: 503}}
		i.HTTP.Request.Method = "GET"
		i.HTTP.Request.Fields.Add("x-a", "12")
		if change != nil {
			change(i.HTTP)
		}
		return i
	}
	withID := func(id string) *flow.Info { return info(func(h *flow.HTTP) { h.RequestID = id }) }
	header := func(m config.HeaderMatcher) *config.AccessLogFilter { return &config.AccessLogFilter{Header: &m} }
	exactly := func(s string) *certs.StringMatcher { return &certs.StringMatcher{Kind: certs.MatchExact, Pattern: s} }
	grpc := func(exclude bool, list ...uint32) *config.AccessLogFilter {
		return &config.AccessLogFilter{GRPC: &config.GRPCStatusFilter{Statuses: list, Exclude: exclude}}
	}
	byID := &config.AccessLogFilter{RuntimePPM: &half, RuntimeUnit: 10_000}
	for claim, c := range map[string]struct {
		f    *config.AccessLogFilter
		i    *flow.Info
		want bool
	}{
		"status 503 is 500 or more":           {&config.AccessLogFilter{Status: true, Op: "GE", Value: 500}, info(nil), true},
		"status 503 is not 504":               {&config.AccessLogFilter{Status: true, Op: "EQ", Value: 504}, info(nil), false},
		"no health check":                     {&config.AccessLogFilter{NotHealth: true}, info(nil), true},
		"a health check":                      {&config.AccessLogFilter{NotHealth: true}, info(func(h *flow.HTTP) { h.HealthCheck = true }), false},
		"the header is there":                 {header(config.HeaderMatcher{Name: "x-a"}), info(nil), true},
		"the header is not there":             {header(config.HeaderMatcher{Name: "x-b"}), info(nil), false},
		"it must not be there":                {header(config.HeaderMatcher{Name: "x-a", Present: &no}), info(nil), false},
		"it must be there, inverted":          {header(config.HeaderMatcher{Name: "x-b", Present: &yes, Invert: true}), info(nil), true},
		"the header fits":                     {header(config.HeaderMatcher{Name: "x-a", String: exactly("12")}), info(nil), true},
		"the header does not fit":             {header(config.HeaderMatcher{Name: "x-a", String: exactly("13")}), info(nil), false},
		"inverted, and not there":             {header(config.HeaderMatcher{Name: "x-b", String: exactly("13"), Invert: true}), info(nil), false},
		"inverted, missing is empty":          {header(config.HeaderMatcher{Name: "x-b", String: exactly("13"), Invert: true, MissingAsEmpty: true}), info(nil), true},
		"in the range":                        {header(config.HeaderMatcher{Name: "x-a", Range: &config.Range64{Start: 12, End: 13}}), info(nil), true},
		"at the end of the range":             {header(config.HeaderMatcher{Name: "x-a", Range: &config.Range64{Start: 11, End: 12}}), info(nil), false},
		"a pseudo-header":                     {header(config.HeaderMatcher{Name: ":method", String: exactly("GET")}), info(nil), true},
		"a connection has no headers":         {header(config.HeaderMatcher{Name: "x-a"}), &flow.Info{}, false},
		"503 is Unavailable":                  {grpc(false, 14), info(nil), true},
		"503 is not Internal":                 {grpc(false, 13), info(nil), false},
		"the status of the trailers":          {grpc(false, 5), info(func(h *flow.HTTP) { h.ResponseTrailers.Add("grpc-status", "5") }), true},
		"all but Unavailable":                 {grpc(true, 14), info(nil), false},
		"a connection is Unknown":             {grpc(false, 2), &flow.Info{}, true},
		"no number is no status":              {grpc(false, 2), info(func(h *flow.HTTP) { h.ResponseTrailers.Add("grpc-status", "x") }), false},
		"the ID's first digits are below 50%": {byID, withID("00000031-0000"), true},
		"they are 50%":                        {byID, withID("00000032-0000"), false},
		"a share of a finer unit":             {&config.AccessLogFilter{RuntimePPM: &fine, RuntimeUnit: 10_000}, withID("00000063-0000"), true},
		"they are 149, 49 of a hundred":       {byID, withID("00000095-0000"), true},
	} {
		if got := passes(c.f, &entry{info: c.i}); got != c.want {
			t.Errorf("%s: got %t", claim, got)
		}
		if f, err := Filter(c.f); err != nil || f(c.i) != c.want {
			t.Errorf("%s: compiled: %v, or another answer", claim, err)
		}
	}
	for _, empty := range []*config.AccessLogFilter{{}, {And: []*config.AccessLogFilter{{}}}} {
		if _, err := Filter(empty); err == nil {
			t.Error("a filter that says nothing is taken")
		}
	}
}

// Whatever a request has in it, its line is one line.
func FuzzRequestLine(f *testing.F) {
	f.Add("/a?x=%41\n", "5", "x\x00y")
	f.Fuzz(func(t *testing.T, path, status, value string) {
		h := &flow.HTTP{Request: message.NewHead(), Response: message.NewHead(), LocalReplyBody: value, Details: value}
		h.Request.Path, h.Request.Method = path, value
		h.Request.Fields.Add("content-type", "application/grpc")
		h.Request.Fields.Add("user-agent", value)
		h.ResponseTrailers.Add("grpc-status", status)
		e := &entry{info: &flow.Info{HTTP: h}}
		line, err := parse(defaultFormat + "%PATH(NQ)% %QUERY_PARAM(x)% %QUERY_PARAMS(DECODED)% %GRPC_STATUS% %LOCAL_REPLY_BODY% %TRAILER(GRPC-STATUS)%")
		if err != nil {
			t.Fatal(err)
		}
		got := string(line.text(nil, e, false))
		if strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\x00\r\x7f") {
			t.Fatalf("%q is more than a line", got)
		}
	})
}

func BenchmarkRequestLine(b *testing.B) {
	info := overHTTP1(b, golden{})
	l, err := compile(&config.AccessLog{})
	if err != nil {
		b.Fatal(err)
	}
	l.sink = &file{counts: &counts{}, some: make(chan struct{}, 1), many: make(chan struct{}, 1)}
	b.ReportAllocs()
	for range b.N {
		l.Write(info, "DownstreamEnd")
		l.sink.mu.Lock()
		l.sink.pending = l.sink.pending[:0]
		l.sink.mu.Unlock()
	}
}
