package cel

import (
	"crypto/x509"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
	"outrider/tlsmux"
)

func structOf(t testing.TB, values map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// subjectOf is a request that has everything.
func subjectOf(t testing.TB) *Subject {
	t.Helper()
	start := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	info := (&flow.Info{}).NewRequest(start)
	info.ID, info.SNI, info.Route, info.FilterChain = 7, "shop.example", "default", "chain"
	info.Remote = flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.9:4242")}
	info.Local = flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.1:8443")}
	info.UpstreamHost = flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.2:80")}
	info.UpstreamCluster = "c"
	info.UpstreamMetadata = map[string]*structpb.Struct{"istio": structOf(t, map[string]any{"workload": "w;ns;s;v;k"})}
	info.End = start.Add(90 * time.Minute)
	uri, _ := url.Parse("spiffe://td/ns/a/sa/b")
	info.Downstream = &tlsmux.State{Version: 0x304, PeerVerified: true, Peer: []*x509.Certificate{{URIs: []*url.URL{uri}, DNSNames: []string{"b.a"}, Raw: []byte("x")}}}
	info.DownstreamPeer = peer.New(peer.Workload{Name: "web", Namespace: "shop", App: "web", Labels: `{"role":"front"}`})
	info.SetState("set", "text")
	info.SetMetadata("ns", "list", structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(1.5), structpb.NewNullValue()}}))
	info.Received.Store(10)
	info.Sent.Store(20)
	info.Flags = flow.NoRouteFound
	info.HTTP.Protocol, info.HTTP.Status, info.HTTP.Details, info.HTTP.VirtualHost = codec.HTTP11, 404, "route_not_found", "vh"
	info.HTTP.RequestHeadBytes, info.HTTP.ResponseHeadBytes, info.HTTP.Attempts = 100, 200, 2
	info.HTTP.ResponseTrailers.Add("grpc-status", "5")
	request := message.NewHead()
	request.Method, request.Scheme, request.Authority, request.Path = "GET", "http", "shop", "/a/b?c=d#e"
	request.Fields.Add("x-user", "me")
	request.Fields.Add("x-user", "you")
	response := message.NewHead()
	response.Status = 404
	response.Fields.Add("server", "envoy")
	return &Subject{
		Info: info, Request: request, Response: response, Direction: config.Inbound,
		Node: &config.Node{ID: "n", Metadata: structOf(t, map[string]any{"A": map[string]any{"B": []any{"x", true}}}), Locality: config.Locality{Region: "r1"}},
		Cluster: func(name string) *config.Cluster {
			return &config.Cluster{Name: name, Metadata: map[string]*structpb.Struct{"istio": structOf(t, map[string]any{"services": []any{map[string]any{"host": "svc.ns"}}})}}
		},
	}
}

func TestExpressionsHaveTheValuesOfEnvoys(t *testing.T) {
	s := subjectOf(t)
	const none = "(none)"
	for text, want := range map[string]string{
		// Attributes.
		`request.path`: "/a/b?c=d#e", `request.url_path`: "/a/b", `request.query`: "c=d", `request.host`: "shop",
		`request.method`: "GET", `request.scheme`: "http", `request.referer`: none, `request.useragent`: none,
		`request.headers['x-user']`: "me,you", `request.headers["X-User"]`: "me,you", `request.headers['none']`: none,
		`request.headers[':method']`: "GET", `request.protocol`: "HTTP/1.1", `request.size`: "10", `request.total_size`: "110",
		`request.duration`: "1h30m", `request.time`: "2026-01-02T03:04:05.006+00:00", `request["method"]`: "GET",
		`response.code`: "404", `response.code_details`: "route_not_found", `response.flags`: "256", `response.grpc_status`: "5",
		`response.headers.server`: "envoy", `response.trailers['grpc-status']`: "5", `response.size`: "20", `response.total_size`: "220",
		`response.backend_latency`: none, `response.headers`: "CelMap value",
		`source.address`: "10.0.0.9:4242", `source.port`: "4242", `destination.port`: "8443", `upstream.address`: "10.0.0.2:80",
		`upstream.request_attempt_count`: "2", `upstream.uri_san_peer_certificate`: none,
		`connection.id`: "7", `connection.mtls`: "true", `connection.requested_server_name`: "shop.example", `connection.tls_version`: "TLSv1.3",
		`connection.uri_san_peer_certificate`: "spiffe://td/ns/a/sa/b", `connection.dns_san_peer_certificate`: "b.a", `connection.termination_details`: none,
		`downstream_peer.workload`: "web", `downstream_peer.labels['role']`: "front", `downstream_peer.labels['other']`: none,
		`filter_state.downstream_peer.labels['role']`: "front", `filter_state['wasm.downstream_peer'].app`: "web", `upstream_peer.workload`: none,
		`filter_state.set`: "text", `filter_state.none`: none, `downstream_peer.type`: none,
		`metadata.filter_metadata['ns'].list[0]`: "1.5", `metadata.filter_metadata.ns.list[1]`: "NULL", `metadata.filter_metadata.ns.list[2]`: none,
		`xds.node.metadata['A'].B[0]`: "x", `node.metadata.A.B[1]`: "true", `xds.node.id`: "n", `xds.node.locality.region`: "r1",
		`xds.cluster_name`: "c", `xds.cluster_metadata.filter_metadata.istio.services[0].host`: "svc.ns", `xds.listener_direction`: "1",
		`xds.route_name`: "default", `xds.virtual_host_name`: "vh", `xds.filter_chain_name`: "chain",
		`xds.upstream_host_metadata.filter_metadata['istio']['workload']`: "w;ns;s;v;k",

		// Literals.
		`"a\tb"`: "a\tb", `r'\d'`: `\d`, `'''a'b'''`: "a'b", `"é\u00e9\x41"`: "ééA", `0x1F`: "31", `5u`: "5", `-5`: "-5",
		`1.5e3`: "1500", `1e7`: "1e+07", `.5`: "0.5", `true`: "true", `null`: "NULL", `[1, 'a',]`: "CelList value",

		// Operators.
		`1 + 2 * 3 - 4`: "3", `(1 + 2) * 3`: "9", `7 / 2`: "3", `7 % 4`: "3", `-7 / 2`: "-3", `1.0 / 2.0`: "0.5", `'a' + 'b'`: "ab",
		`1 / 0`: none, `9223372036854775807 + 1`: none, `5u - 6u`: none, `1 + 1u`: none, `1 + 'a'`: none,
		`1 == 1u`: "true", `1 == 1.0`: "true", `1 == '1'`: "false", `'a' != 'b'`: "true", `'a' < 'b'`: "true", `2 >= 2.0`: "true", `-1 < 1u`: "true",
		`[1, 2] == [1, 2]`: "true", `2 in [1, 2]`: "true", `'x' in ['y']`: "false", `'x-user' in request.headers`: "true", `'x' in request.headers`: "false",
		`!true`: "false", `!'a'`: none, `true ? 1 : 2`: "1", `false ? 1 : true ? 3 : 4`: "3", `1 ? 2 : 3`: none,
		`true || request.referer == 'x'`: "true", `request.referer == 'x' || true`: "true", `request.referer == 'x' || false`: none,
		`false && request.referer == 'x'`: "false", `request.referer == 'x' && false`: "false", `true && true`: "true", `true && 1`: none,
		`1 + 1 == 2 && 'a' in ['a'] // the rest`: "true",

		// Functions.
		`has(request.referer) ? request.referer : 'none'`: "none", `has(request.headers.server)`: "false", `has(request.path)`: "true",
		`has(downstream_peer.labels.role) ? downstream_peer.labels.role : 'none'`: "front", `has(upstream_peer.labels.role)`: none,
		`size('äb')`: "2", `'ab'.size()`: "2", `size([1])`: "1", `request.path.startsWith('/a/')`: "true", `request.path.endsWith('x')`: "false",
		`request.path.contains('b?c')`: "true", `request.path.matches('^/[a-c]/b')`: "true", `matches('abc', 'b')`: "true",
		`string(destination.port)`: "8443", `string(1.5)`: "1.5", `int('12') + 1`: "13", `int('x')`: none, `uint(3)`: "3", `uint(-3)`: none, `double(1) / 2.0`: "0.5",
		`request.path == '/a/b?c=d#e' ? 'yes' : 'no'`: "yes",
	} {
		p, err := Compile(text)
		if err != nil {
			t.Error(err)
			continue
		}
		got, ok := p.Text(s)
		if !ok {
			got = none
		}
		if got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func TestWhatIsNotThereHasNoValue(t *testing.T) {
	empty := &Subject{Info: &flow.Info{}}
	for _, text := range []string{
		`request.path`, `request.headers['x']`, `response.code`, `response.grpc_status`, `response.trailers['x']`, `source.port`, `source.address`,
		`upstream.address`, `upstream.local_address`, `connection.tls_version`, `connection.subject_local_certificate`, `xds.cluster_name`, `xds.cluster_metadata`, `xds.route_name`, `node.metadata['x']`,
		`xds.virtual_host_name`, `xds.route_metadata`, `request.protocol`, `upstream_filter_state.upstream_peer`, `metadata.filter_metadata.x`, `xds.upstream_host_metadata`,
	} {
		p, err := Compile(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got, ok := p.Text(empty); ok {
			t.Errorf("%s is %q", text, got)
		}
	}
}

func TestWhatTheCallerDoesNotKnowIsRefused(t *testing.T) {
	for text, refused := range map[string]bool{`xds.node.id`: true, `xds["node"].id`: true, `node.id`: true, `xds.cluster_name`: false} {
		if _, err := Compile(text, "xds.node", "node.id"); (err != nil) != refused || refused && !strings.Contains(err.Error(), "not known in this place") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestOnlyTrueIsTrue(t *testing.T) {
	s := subjectOf(t)
	for text, want := range map[string]bool{
		`response.code >= 400`: true, `response.code < 400`: false, `1`: false, `'true'`: false, `request.referer == ''`: false, `!has(request.referer)`: true,
	} {
		p, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.True(s); got != want {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func TestTheClustersMetadataAreThoseOfTheAttempt(t *testing.T) {
	s := subjectOf(t)
	s.Cluster = nil
	s.Info.ClusterMetadata = map[string]*structpb.Struct{"a": structOf(t, map[string]any{"b": "c"})}
	p, err := Compile(`xds.cluster_name + xds.cluster_metadata.filter_metadata.a.b`)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Text(s); got != "cc" {
		t.Errorf("it is %q", got)
	}
}

func TestNamesOfACertificateThatWasNotVerifiedAreNotShown(t *testing.T) {
	s := subjectOf(t)
	s.Info.Downstream.PeerVerified = false
	for _, text := range []string{`connection.uri_san_peer_certificate`, `connection.dns_san_peer_certificate`, `connection.sha256_peer_certificate_digest`} {
		p, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := p.Text(s); ok {
			t.Errorf("%s is %q", text, got)
		}
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for text, why := range map[string]string{
		``:                               "a value is missing",
		`request`:                        "no value",
		`request == 1`:                   "no value",
		`!request`:                       "no value",
		`[request]`:                      "no value",
		`size(request)`:                  "no value",
		`request.size()`:                 "no value",
		`true ? request : 1`:             "no value",
		`request.headers[source]`:        "no value",
		`request.pathh`:                  "no attribute request.pathh",
		`request[request.path]`:          "by what is no text",
		`requests.path`:                  `"requests" is not known`,
		`listener_metadata`:              "not known",
		`xds.listener_metadata`:          "no attribute",
		`'it''s'`:                        "one too many",
		`1 2`:                            "one too many",
		`(1`:                             `")" is missing`,
		`[1`:                             `"]" is missing`,
		`request.headers['a'`:            `"]" is missing`,
		`true ? 1`:                       `":" is missing`,
		`request.`:                       "a name is missing",
		`request.'a'`:                    "a name is missing",
		`'abc`:                           "does not end",
		"'a\nb'":                         "does not end",
		`'\q'`:                           "escape",
		`99999999999999999999`:           "too large",
		`1abc`:                           "no number",
		`0xzz`:                           "no number",
		`1 & 2`:                          "not understood",
		`1 =  2`:                         "not understood",
		`foo(1)`:                         `no function "foo"`,
		`[1].all(x, x > 0)`:              "not known",
		`has(request.headers['x'])`:      "has() wants",
		`has(1)`:                         "has() wants",
		`has(request.path, 1)`:           "has() wants",
		`'a'.startsWith()`:               "it takes 2",
		`startsWith('a', 'b')`:           "no function",
		`'a'.string()`:                   "no function",
		`'a'.matches('(')`:               "missing closing",
		`'a'.matches(request.path)`:      "as a text",
		`{'a': 1}`:                       "not understood",
		`b'abc'`:                         "not known",
		strings.Repeat("(", 5000):        "too deep",
		strings.Repeat("!", 5000):        "too deep",
		strings.Repeat("- ", 3000) + "1": "too deep",
		strings.Repeat("a", maxText+1):   "the limit is",
	} {
		if _, err := Compile(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.60s: %v, want %q", text, err, why)
		}
	}
}

// FuzzCompile promises that no text makes the compiler or what it compiles
// panic.
func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`has(request.headers['a']) ? request.headers['a'] : 'b' + string(1.5)`, `-1 + 2u * 3.0 in [1, 'a'] || !true && null == r'\'`,
		`downstream_peer.labels['x'].matches('a+')`, `"\u12"`, `'''`, `xds.node.metadata['a'][0] < 1e`, `- -9223372036854775808 / -1`,
	} {
		f.Add(text)
	}
	s := subjectOf(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile(text)
		if err != nil {
			return
		}
		p.Text(s)
		p.Text(&Subject{Info: &flow.Info{}})
	})
}
