package accesslog

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func printed(t *testing.T, cfg *config.AccessLog, info *flow.Info) string {
	t.Helper()
	l, err := compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return string(l.append(nil, &entry{info: info, event: "TcpConnectionEnd", now: info.End}))
}

func refusedByPort1() *flow.Info {
	start := time.Date(2026, 11, 23, 13, 40, 53, 602_123_456, time.UTC)
	i := &flow.Info{
		Start: start, End: start.Add(3 * time.Millisecond), SNI: `a b"[x]:/~%\,!a-_.z`,
		Remote:       flow.Addr{AddrPort: netip.MustParseAddrPort("127.0.0.1:44684")},
		UpstreamHost: flow.Addr{AddrPort: netip.MustParseAddrPort("127.0.0.1:24202")},
		FilterState:  map[string]string{"fs": "state value"},
	}
	i.Flags.Set(flow.UpstreamConnectionFailure | flow.UpstreamRetryLimitExceeded)
	v, _ := structpb.NewStruct(map[string]any{"n": 2, "k": "v 1"})
	i.ClusterMetadata = map[string]*structpb.Struct{"cm": v}
	return i
}

func TestDefaultFormatIsEnvoys(t *testing.T) {
	got := printed(t, &config.AccessLog{}, refusedByPort1())
	want := `[2026-11-23T13:40:53.602Z] "- - -" 0 UF,URX 0 0 3 - "-" "-" "-" "-" "127.0.0.1:24202"` + "\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// The two lines are what Envoy 1.40 made of the format beside them.
func TestJSONIsLaidOutAsEnvoyDoes(t *testing.T) {
	text, err := os.ReadFile("testdata/envoy/json_format.json")
	if err != nil {
		t.Fatal(err)
	}
	format := &structpb.Struct{}
	if err := format.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	for file, omit := range map[string]bool{"json_line.json": false, "json_line_omit.json": true} {
		want, err := os.ReadFile("testdata/envoy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got := printed(t, &config.AccessLog{JSON: format, OmitEmpty: omit}, refusedByPort1()); got != string(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", file, got, want)
		}
	}
}

func TestJSONWithNothingInItIsAnObject(t *testing.T) {
	s, _ := structpb.NewStruct(map[string]any{"a": "%PROTOCOL%"})
	if got := printed(t, &config.AccessLog{JSON: s, OmitEmpty: true}, &flow.Info{}); got != "{}\n" {
		t.Errorf("got %q", got)
	}
}

func TestText(t *testing.T) {
	for format, want := range map[string]string{
		"100%% of %BYTES_SENT%%%":          "100% of 0%",
		"%FILTER_STATE(fs):3%":             `"st`,
		"%FILTER_STATE(fs:PLAIN):3%":       "sta",
		"%FILTER_STATE(fs:PLAIN):0%":       "",
		"%REQUESTED_SERVER_NAME%":          "invalid:a_b__x________a-_.z",
		"%CLUSTER_METADATA(cm)%!":          `{"k":"v 1","n":2}!`,
		"%START_TIME(a)b)%":                "a)b",
		"%START_TIME(%Q%)%":                "%Q%",
		"no operator":                      "no operator",
		"%ACCESS_LOG_TYPE%\n%REQ(a?b):9%|": "TcpConnectionEnd\n-|",
	} {
		if got := printed(t, &config.AccessLog{Format: format}, refusedByPort1()); got != want {
			t.Errorf("%q: got %q, want %q", format, got, want)
		}
	}
}

func TestAFormatThatEnvoyRefusesIsRefusedByName(t *testing.T) {
	for _, op := range []string{
		"NOPE", "bytes_sent", "BYTES_SENT(x)", "BYTES_SENT:3", "REQ", "REQ()", "REQ(a?b?c)", "REQ(a b)", "REQ(a):x", "REQ(a):",
		"REQ(a", "REQ(a):99999999999999999999", "START_TIME:3", "START_TIME(%n)", "START_TIME(%3n)", "START_TIME(%En)",
		"DYNAMIC_METADATA", "DYNAMIC_METADATA()", "CLUSTER_METADATA(a):2", "METADATA(X:a)", "METADATA()",
		"FILTER_STATE", "FILTER_STATE()", "FILTER_STATE(a:X)", "FILTER_STATE(a:FIELD)", "FILTER_STATE(a:PLAIN:x)",
		"ENVIRONMENT", "COMMON_DURATION", "COMMON_DURATION(a)", "COMMON_DURATION(a:b:c:d)", "COMMON_DURATION(a:b:s)",
		"GRPC_STATUS(x)", "GRPC_STATUS:2", "RESPONSE_CODE_DETAILS:2", "DOWNSTREAM_PEER_SUBJECT(x)", "UNIQUE_ID(x)",
		"PATH(x)", "PATH(NQ:x)", "QUERY_PARAM", "QUERY_PARAMS(RAW)", "COALESCE", "COALESCE({})",
		`COALESCE({"operators":["NOPE"]})`, "HOSTNAME:2", "EMIT_TIME(%n)", "DOWNSTREAM_PEER_CERT_V_START(%n)",
		// Envoy has these, and could fill them.
		"CEL(xds.node.id)", "CEL", "CEL(nope)", "UPSTREAM_CONNECTION_IDS_ATTEMPTED", "OUTRIDER_UPSTREAM_CLOSE(X)", "DOWNSTREAM_CX_RTT", "METADATA(LISTENER:a)", "METADATA(VIRTUAL_HOST:a)",
	} {
		name, _, _ := strings.Cut(op, "(")
		name, _, _ = strings.Cut(name, ":")
		if err := Check(&config.AccessLog{Format: "%" + op + "%"}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%%%s%%: got %v, want an error that names it", op, err)
		}
		s, _ := structpb.NewStruct(map[string]any{"a": map[string]any{"key": []any{"%" + op + "%"}}})
		if err := Check(&config.AccessLog{JSON: s}); err == nil || !strings.Contains(err.Error(), "key") {
			t.Errorf("%%%s%% in JSON: got %v, want an error with the key", op, err)
		}
	}
}

func TestAFormatThatEnvoyTakesIsTaken(t *testing.T) {
	for _, op := range []string{
		"BYTES_SENT()", "START_TIME()", "DYNAMIC_METADATA(a::b)", "DYNAMIC_METADATA(a):2", "FILTER_STATE(a:FIELD:x)", "REQ(a?)", "REQ(?a)",
		"REQ(:METHOD)", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", "PATH(WQ)", "PATH(NQ:PATH):2", "QUERY_PARAMS(DECODED)", "GRPC_STATUS(SNAKE_STRING)",
		"METADATA(ROUTE:a)", "METADATA(CLUSTER:a):2", `COALESCE({"operators":[{"command":"REQ","param":"a","max_length":3},"PROTOCOL"]}):2`,
		"RESPONSE_CODE_DETAILS(x)", "UPSTREAM_FILTER_STATE(a:TYPED)", "TLS_JA3_FINGERPRINT",
		"CEL(has(request.referer) ? request.referer : 'none'):3", "CEL(connection.id)",
	} {
		if err := Check(&config.AccessLog{Format: "%" + op + "%"}); err != nil {
			t.Errorf("%%%s%%: %v", op, err)
		}
	}
}

func TestAPeerCannotForgeALine(t *testing.T) {
	info := &flow.Info{SNI: "a\nb", DownstreamFailure: "x\r\n[2026] \x1b[31m", FilterState: map[string]string{"k": "1\n2\x00\x7f"}}
	got := printed(t, &config.AccessLog{Format: "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %FILTER_STATE(k:PLAIN)%\n"}, info)
	want := `invalid:a_b x\x0d\x0a[2026]_\x1b[31m 1\x0a2\x00\x7f` + "\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestStreamIDIsOneForAConnectionAndAnotherForTheNext(t *testing.T) {
	cfg := &config.AccessLog{Format: "%STREAM_ID%"}
	i := refusedByPort1()
	first, again := printed(t, cfg, i), printed(t, cfg, i)
	i.ID++
	if next := printed(t, cfg, i); first != again || next == first || len(first) != 36 {
		t.Errorf("got %s, %s, then %s", first, again, next)
	}
}

func TestFilters(t *testing.T) {
	ms := func(n int) *time.Duration { d := time.Duration(n) * time.Millisecond; return &d }
	all, none := uint32(1_000_000), uint32(0)
	yes, no := &config.AccessLogFilter{NotHealth: true}, &config.AccessLogFilter{RuntimePPM: &none}
	for name, c := range map[string]struct {
		f    *config.AccessLogFilter
		want bool
	}{
		"no filter":                    {nil, true},
		"an unknown filter":            {&config.AccessLogFilter{}, false},
		"duration 3 is at least 3":     {&config.AccessLogFilter{DurationGE: ms(3), Op: "GE"}, true},
		"duration 3 is not 4 or more":  {&config.AccessLogFilter{DurationGE: ms(4), Op: "GE"}, false},
		"duration 3 is 3":              {&config.AccessLogFilter{DurationGE: ms(3), Op: "EQ"}, true},
		"duration 3 is at most 3":      {&config.AccessLogFilter{DurationGE: ms(3), Op: "LE"}, true},
		"duration 3 is not other than": {&config.AccessLogFilter{DurationGE: ms(3), Op: "NE"}, false},
		"an unknown comparison":        {&config.AccessLogFilter{DurationGE: ms(3), Op: "XX"}, false},
		"status is 0":                  {&config.AccessLogFilter{Status: true, Op: "EQ"}, true},
		"status is not 400":            {&config.AccessLogFilter{Status: true, Op: "GE", Value: 400}, false},
		"any flag":                     {&config.AccessLogFilter{IsFlags: true}, true},
		"flag UF":                      {&config.AccessLogFilter{IsFlags: true, Flags: []string{"NR", "UF"}}, true},
		"flag NR":                      {&config.AccessLogFilter{IsFlags: true, Flags: []string{"NR"}}, false},
		"this type":                    {&config.AccessLogFilter{LogTypes: []string{"TcpConnectionEnd"}}, true},
		"another type":                 {&config.AccessLogFilter{LogTypes: []string{"TcpPeriodic"}}, false},
		"not this type":                {&config.AccessLogFilter{LogTypes: []string{"TcpConnectionEnd"}, ExcludeTypes: true}, false},
		"not another type":             {&config.AccessLogFilter{LogTypes: []string{"TcpPeriodic"}, ExcludeTypes: true}, true},
		"always":                       {&config.AccessLogFilter{RuntimePPM: &all}, true},
		"never":                        {no, false},
		"both":                         {&config.AccessLogFilter{And: []*config.AccessLogFilter{yes, yes}}, true},
		"not both":                     {&config.AccessLogFilter{And: []*config.AccessLogFilter{yes, no}}, false},
		"one of them":                  {&config.AccessLogFilter{Or: []*config.AccessLogFilter{no, yes}}, true},
		"none of them":                 {&config.AccessLogFilter{Or: []*config.AccessLogFilter{no, no}}, false},
	} {
		i := refusedByPort1()
		if got := passes(c.f, &entry{info: i, event: "TcpConnectionEnd", now: i.End}); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

// What a peer sent is in no case more than one line of text, or not JSON.
func FuzzPeerValues(f *testing.F) {
	f.Add("web.foo.svc", []byte("CN=x"))
	c := cert(f, "client")
	f.Add("a\n\xff\"\\", c.RawSubject)
	for i := range c.Extensions {
		f.Add("", c.Extensions[i].Value)
	}
	f.Fuzz(func(t *testing.T, s string, der []byte) {
		e := &entry{info: &flow.Info{SNI: s, DownstreamFailure: s, FilterState: map[string]string{"k": s}}}
		for _, op := range []operator{
			text(func(i *flow.Info) string { return i.SNI }),
			text(func(i *flow.Info) string { return oneWord(i.DownstreamFailure) }),
			{text: func(b []byte, _ *entry) ([]byte, bool) { return appendName(b, der), true }},
			{text: func(b []byte, _ *entry) ([]byte, bool) { return appendOtherName(b, der), true }},
			{text: func(b []byte, _ *entry) ([]byte, bool) { return appendSANs(b, der, byte(len(s)%8)), true }},
		} {
			for _, c := range (format{{operator: &op}}).text([]byte("x"), e, false) {
				if c < ' ' || c == 0x7f {
					t.Fatalf("control character %#x in the line", c)
				}
			}
			if b, _ := (typed{&op}).append(nil, e, false); !json.Valid(b) {
				t.Fatalf("%q is not JSON", b)
			}
		}
	})
}

func BenchmarkLine(b *testing.B) {
	info := overTLS13(b, golden{})
	s, _ := structpb.NewStruct(map[string]any{
		"start_time": "%START_TIME%", "bytes_sent": "%BYTES_SENT%", "bytes_received": "%BYTES_RECEIVED%", "duration": "%DURATION%",
		"flags": "%RESPONSE_FLAGS%", "upstream_host": "%UPSTREAM_HOST%", "peer": "%DOWNSTREAM_PEER_URI_SAN%", "tls": "%DOWNSTREAM_TLS_VERSION%",
	})
	for name, cfg := range map[string]*config.AccessLog{
		"default": {},
		"json":    {JSON: s},
		"identity": {Format: "[%START_TIME%] %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT% " +
			"%UPSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_FINGERPRINT_256%\n"},
	} {
		b.Run(name, func(b *testing.B) {
			l, err := compile(cfg)
			if err != nil {
				b.Fatal(err)
			}
			l.sink = &file{counts: &counts{}, some: make(chan struct{}, 1), many: make(chan struct{}, 1)}
			b.ReportAllocs()
			for range b.N {
				l.Write(info, "TcpConnectionEnd")
				l.sink.mu.Lock()
				l.sink.pending = l.sink.pending[:0]
				l.sink.mu.Unlock()
			}
		})
	}
}
