package decode

import (
	"net/netip"
	"os"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
)

func ptr[T any](v T) *T { return &v }

func exact(s string) *certs.StringMatcher { return &certs.StringMatcher{Pattern: s} }

func prefixed(s string) *certs.StringMatcher {
	return &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: s}
}

// same compares whole values, and not what belongs to the protos.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	opts := cmp.Options{
		cmpopts.IgnoreFields(config.RouteConfig{}, "Digest", "Source"),
		cmpopts.IgnoreFields(certs.StringMatcher{}, "Regex"),
		cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}), protocmp.Transform(),
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("%s: want -, got +:\n%s", what, diff)
	}
}

func TestTheConnectionManagersOptionsAreDecoded(t *testing.T) {
	got := load(t, "http.yaml").Listeners[0].Chains[0].Filters[0].HTTP
	routes, filters := got.Routes, got.Filters
	got.Routes, got.Filters = nil, nil
	if routes == nil || len(filters) != 14 {
		t.Fatalf("routes %v, and %d filters, want 14", routes, len(filters))
	}
	same(t, "connection manager", got, &config.HTTPConnectionManager{
		StatPrefix: "s", Codec: config.CodecHTTP2,
		LogInterval: 4 * time.Second, LogOnRequest: true, LogOnTunnel: true,
		HTTP1: config.HTTP1Options{
			AcceptHTTP10: true, DefaultHost: "d.example", EnableTrailers: true, AllowChunkedLength: true, ProperCase: true,
		},
		HTTP2: config.HTTP2Options{
			HeaderTableSize: 8192, MaxStreams: 10, StreamWindow: 65536, ConnWindow: 65537, AllowConnect: true,
			MaxOutboundFrames: 11, MaxOutboundControlFrames: 12, MaxEmptyDataFrames: ptr[uint32](0), MaxPriority: ptr[uint32](13),
			MaxWindowUpdates: ptr[uint32](14), StreamErrorsOnly: true,
			KeepaliveInterval: 15 * time.Second, KeepaliveTimeout: 16 * time.Second, KeepaliveIdle: 17 * time.Second, KeepaliveJitterPercent: 15,
		},
		Common: config.CommonHTTPOptions{
			IdleTimeout: 5 * time.Second, MaxDuration: 6 * time.Second, MaxHeaders: 7, MaxStreamTime: 8 * time.Second,
			Underscores: config.UnderscoresReject, MaxRequests: 9,
		},
		ServerName: "me", ServerHeader: config.ServerAppendIfAbsent, SchemeToSet: "https", MaxRequestHeadersKB: 96,
		RequestTimeout: time.Second, RequestHeadersTimeout: 2 * time.Second, DrainTimeout: 3 * time.Second,
		UseRemoteAddress: true, XFFTrustedHops: 2, SkipXFFAppend: true, Via: "1.1 me", PreserveRequestID: true, AlwaysSetRequestID: true,
		RepresentIPv4AsMapped: true, InternalPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, InternalPrefixesSet: true,
		InternalUnixSockets: true, ForwardClientCert: config.XFCCSanitizeSet,
		SetClientCert: config.ClientCertDetails{Subject: true, DNS: true, URI: true},
		NormalizePath: true, MergeSlashes: true, EscapedSlashes: config.SlashesUnescapeForward, StripAnyPort: true,
		StripTrailingHostDot: true, AppendXForwardedPort: true, Proxy100Continue: true, StreamErrorOnInvalid: true, AppendLocalOverload: true, AddProxyProtocolHeader: true,
		Upgrades: []config.UpgradeConfig{
			{Type: "websocket", Enabled: true},
			{Type: "connect", Filters: []*config.HTTPFilter{{Name: "router", Config: &config.HTTPRouter{}}}},
		},
		LocalReply: &config.LocalReplyConfig{
			Mappers: []config.LocalReplyMapper{{
				Filter: &config.AccessLogFilter{Status: true, Op: "EQ", Value: 503}, Status: 504, Body: ptr("gone"),
				Format:  &config.BodyFormat{Log: &config.AccessLog{Format: "%LOCAL_REPLY_BODY% %RESPONSE_CODE%"}, ContentType: "text/html"},
				Headers: []config.HeaderValueOption{{Name: "x-reason", Value: "%RESPONSE_FLAGS%", Action: config.HeaderOverwrite}},
			}},
			Body: &config.BodyFormat{Log: &config.AccessLog{JSON: &structpb.Struct{Fields: map[string]*structpb.Value{"status": structpb.NewStringValue("%RESPONSE_CODE%")}}}},
		},
	})
}

func TestRoutesAreDecoded(t *testing.T) {
	routes := load(t, "http.yaml").Listeners[0].Chains[0].Filters[0].HTTP.Routes
	host := routes.VirtualHosts[0]
	list := host.Routes
	if len(list) != 7 {
		t.Fatalf("%d routes, want 7", len(list))
	}
	host.Routes = nil
	same(t, "route configuration", routes, &config.RouteConfig{
		Name: "local", InternalOnly: []string{"x-internal"}, MostSpecificWins: true, ValidateClusters: true,
		MaxDirectResponseBytes: 10, IgnorePortInHost: true, IgnorePathParameters: true,
		Headers: config.HeaderOps{
			RequestAdd:     []config.HeaderValueOption{{Name: "x-a", Value: "a"}, {Name: "x-b", Value: "b", Action: config.HeaderOverwrite}},
			ResponseRemove: []string{"x-c"},
		},
		MirrorPolicies: []config.MirrorPolicy{{Cluster: "up", RuntimePPM: ptr[uint32](500000), RuntimeKey: "half", NoShadowSuffix: true}},
		PerFilter: map[string]*config.FilterOverride{"cors": {Config: &config.CORSPolicy{
			Origins: []certs.StringMatcher{{Kind: certs.MatchSuffix, Pattern: ".example"}}, AllowMethods: "GET", Credentials: ptr(true), EnabledPPM: 1000000,
		}}},
		VirtualHosts: []*config.VirtualHost{{
			Name: "a", Domains: []string{"a.example", "*.a.example", "a.*"}, RequireTLS: config.TLSForExternal,
			IncludeAttempts: true, AttemptsInReply: true, TimeoutHeader: true, BufferLimit: ptr[uint32](100),
			Retry: &config.RetryPolicy{
				On: []string{"5xx", "gateway-error"}, BackoffBase: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond, HostAttempts: 1,
			},
			VirtualClusters: []config.VirtualCluster{{Name: "v", Headers: []config.HeaderMatcher{{Name: ":path", String: prefixed("/v")}}}},
			PerFilter: map[string]*config.FilterOverride{
				"rbac":     {Config: &config.HTTPRBAC{}},
				"buffer":   {Disabled: true},
				"fault":    {Disabled: true},
				"mutation": {Config: &config.HeaderMutation{Response: []config.HeaderMutate{{Remove: "x-m"}}}},
			},
			RateLimits: []config.RateLimit{{Stage: 3, Hits: ptr[uint64](4), Actions: []config.RateAction{
				{Key: "generic_key", Value: "g", Generic: true},
				{Key: "remote_address", RemoteAddress: true},
				{Key: "masked_remote_address", Masked: &config.RateMask{V4: 24, V6: 128}},
				{Key: "source_cluster", SourceCluster: true},
				{Key: "destination_cluster", DestinationCluster: true},
				{Key: "h", Header: "x-rate", SkipIfAbsent: true},
				{Key: "qk", Query: "q"},
				{Key: "header_match", Value: "v", HeaderMatch: []config.HeaderMatcher{{Name: "x"}}},
				{Key: "query_match", Value: "v", QueryMatch: []config.QueryMatcher{{Name: "yy", Present: ptr(true)}}, Expect: true},
				{Key: "m", Default: "d", Metadata: &config.RateMetadata{Namespace: "ns", Path: []string{"a", "b"}, Route: true}},
			}}},
		}},
	})
	same(t, "route 0", list[0], firstRoute())
	otherRoutes(t, list)
}

func otherRoutes(t *testing.T, list []*config.Route) {
	t.Helper()
	same(t, "route 1", list[1], &config.Route{
		Match: config.RouteMatch{Template: "/v/{id}/{rest=a/**}.mp4"},
		Action: &config.RouteAction{
			Cluster: "up", NotFoundStatus: 503, Timeout: 15 * time.Second, PathTemplateRewrite: "/{rest}/x-{id}", AutoHostRewrite: true,
		},
	})
	same(t, "route 2", list[2], &config.Route{
		Match: config.RouteMatch{Connect: true},
		Action: &config.RouteAction{
			ClusterHeader: "x-cluster", NotFoundStatus: 503, Timeout: 15 * time.Second,
			HostRewritePath: &config.RegexRewrite{Pattern: "^/(.+)/.+$", Substitution: `\1`},
		},
	})
	same(t, "route 3", list[3], &config.Route{
		Match: config.RouteMatch{Regex: "/r/[0-9]+"},
		Redirect: &config.Redirect{
			HTTPS: true, Host: "h.example", Port: 8443, RegexRewrite: &config.RegexRewrite{Pattern: "a", Substitution: "b"}, Status: 308, StripQuery: true,
		},
	})
	same(t, "route 4", list[4], &config.Route{
		Match:    config.RouteMatch{Prefix: ptr("/old")},
		Redirect: &config.Redirect{Scheme: "https", PrefixRewrite: ptr(""), Status: 301},
	})
	same(t, "route 5", list[5], &config.Route{
		Match:  config.RouteMatch{Path: ptr("/d")},
		Direct: &config.DirectReply{Status: 418, Body: []byte("teapot"), Format: &config.BodyFormat{Log: &config.AccessLog{Format: "%LOCAL_REPLY_BODY%!"}}},
	})
	same(t, "route 6", list[6], &config.Route{Match: config.RouteMatch{Prefix: ptr("/n")}, NonForwarding: true})
}

func firstRoute() *config.Route {
	second := func(n time.Duration) *time.Duration { return ptr(n * time.Second) }
	return &config.Route{
		Name: "r0", StatPrefix: "r", Decorator: "op", BufferLimit: ptr[uint32](1<<32 - 1),
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"istio": {Fields: map[string]*structpb.Value{"config": structpb.NewStringValue("x")}},
		}},
		Match: config.RouteMatch{
			PathSeparatedPrefix: ptr("/p"), IgnoreCase: true, RuntimePPM: ptr[uint32](100),
			Headers: []config.HeaderMatcher{
				{Name: "x-e", String: exact("e")},
				{Name: "x-f", String: &certs.StringMatcher{Kind: certs.MatchRegex, Pattern: "f+"}},
				{Name: "x-g", Range: &config.Range64{Start: -1, End: 5}, Invert: true},
				{Name: "x-h", Present: ptr(false)},
				{Name: "x-i", String: &certs.StringMatcher{Kind: certs.MatchContains, Pattern: "i", IgnoreCase: true}, MissingAsEmpty: true},
				{Name: "x-j"},
			},
			Query:        []config.QueryMatcher{{Name: "q", String: exact("x")}, {Name: "r", Present: ptr(true)}},
			Cookies:      []config.CookieMatcher{{Name: "c", String: prefixed("yes-"), Invert: true}},
			GRPC:         true,
			TLSPresented: ptr(true), TLSValidated: ptr(false),
		},
		Action: &config.RouteAction{
			Weighted: &config.WeightedClusters{
				Clusters: []config.WeightedHTTPCluster{
					{Name: "heavy", Weight: 7, HostRewrite: "h.example", Headers: config.HeaderOps{RequestRemove: []string{"x-w"}}},
					{Header: "x-cluster", Weight: 2},
				},
				Total: 9, RandomHeader: "x-random",
			},
			NotFoundStatus: 404, IdleTimeout: second(1), FlushTimeout: second(2),
			MaxStream: &config.MaxStreamDuration{Max: second(3), GRPCMax: second(0), GRPCOffset: 4 * time.Second},
			RateLimits: []config.RateLimit{{Disabled: true, Actions: []config.RateAction{
				{Key: "m", Metadata: &config.RateMetadata{Namespace: "ns", Path: []string{"a"}}},
			}}},
			IncludeHostRates: true,
			HighPriority:     true, RegexRewrite: &config.RegexRewrite{Pattern: "/(.*)", Substitution: `/x/\1`},
			HostRewriteHeader: "x-host", AppendXFHost: true,
			Retry: &config.RetryPolicy{
				On: []string{"retriable-status-codes", "retriable-headers", "reset-before-request"}, Retries: ptr[uint32](0),
				PerTry: 5 * time.Second, PerTryIdle: 6 * time.Second, StatusCodes: []uint32{503},
				RetriableHeaders: []config.HeaderMatcher{{Name: "x-k"}}, RequestHeaders: []config.HeaderMatcher{{Name: "x-l"}},
				BackoffBase: time.Millisecond, BackoffMax: 7 * time.Second,
				RateLimitedHeaders: []config.ResetHeader{{Name: "retry-after"}, {Name: "x-reset", Unix: true}}, RateLimitedMax: 5 * time.Minute,
				PreviousHosts: true, OmitCanary: true, HostAttempts: 8,
			},
			HashPolicies: []config.HashPolicy{
				{Header: "x-hash", HeaderRegex: &config.RegexRewrite{Pattern: ".", Substitution: "b"}, Terminal: true},
				{Cookie: &config.HashCookie{Name: "c", Path: "/", TTL: second(0), Attributes: [][2]string{{"SameSite", "Lax"}}}},
				{SourceIP: true}, {Query: "q"}, {FilterState: "k"},
			},
			Upgrades: []config.UpgradeConfig{{Type: "connect", Enabled: true}, {Type: "websocket"}},
			InternalRedirect: &config.InternalRedirect{
				Max: 1, Codes: []uint32{301, 307}, AllowCrossScheme: true, CopyHeaders: []string{"x-copy"},
				PreviousRoutes: true, SafeCrossScheme: true, AllowedRoutes: []string{"r0"},
			},
		},
	}
}

func TestHowClustersSpeakHTTPIsDecoded(t *testing.T) {
	clusters := load(t, "http.yaml").Clusters
	same(t, "options by extension", clusters[0].HTTP, config.UpstreamHTTP{
		Mode: config.UpstreamFollow, TakesHTTP2: true, AutoSNI: true, AutoSANValidation: true, AutoSNIHeader: "x-sni", Preconnect: 1.5,
		HTTP1:  config.HTTP1Options{AllowAbsoluteURL: true},
		HTTP2:  config.HTTP2Options{MaxStreams: 21},
		Common: config.CommonHTTPOptions{MaxHeaders: 100, MaxRequests: 20},
	})
	same(t, "retry budgets", []any{clusters[0].CircuitBreakers[0].RetryBudget, clusters[0].CircuitBreakers[1].RetryBudget, clusters[1].CircuitBreakers[0].RetryBudget}, []any{
		&config.RetryBudget{Percent: 25.5, Min: 4}, &config.RetryBudget{Percent: 20, Min: 3}, (*config.RetryBudget)(nil),
	})
	same(t, "options by fields", clusters[1].HTTP, config.UpstreamHTTP{
		Mode: config.UpstreamHTTP2, TakesHTTP2: true, HTTP1: config.HTTP1Options{AllowAbsoluteURL: true},
		Common: config.CommonHTTPOptions{IdleTimeout: time.Hour, MaxHeaders: 100},
	})
	if !clusters[0].HTTP2 || !clusters[1].HTTP2 {
		t.Errorf("HTTP2 is %v and %v, want true for both", clusters[0].HTTP2, clusters[1].HTTP2)
	}
}

func TestRoutesFromAFileAreDecoded(t *testing.T) {
	text := string(changed(t, "route_config:\n            name: local\n            virtual_hosts:\n            - name: all\n              domains: [\"*\"]\n              routes:\n              - match: {prefix: /}\n                route: {cluster: up}\n",
		"rds: {route_config_name: web, config_source: {path_config_source: {path: testdata/rds.yaml, watched_directory: {path: testdata}}, resource_api_version: V3}}\n"))
	same(t, "rds", httpOf(t, text).RDS, &config.RDS{Name: "web", Source: &certs.Source{
		Path: "testdata/rds.yaml", WatchedDirectory: "testdata", InitialFetchTimeout: 15 * time.Second,
	}})
	file, err := os.ReadFile("testdata/rds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	response, err := Response(file)
	if err != nil {
		t.Fatal(err)
	}
	routes := &routev3.RouteConfiguration{}
	if err := response.GetResources()[0].UnmarshalTo(routes); err != nil {
		t.Fatal(err)
	}
	got, err := RouteConfiguration(routes, Options{Static: &config.Bootstrap{}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "web" || got.ValidateClusters || len(got.VirtualHosts) != 1 {
		t.Errorf("got %+v, want web, whose clusters are not demanded", got)
	}
	routes.VirtualHosts[0].Routes[0].GetRoute().HashPolicy = []*routev3.RouteAction_HashPolicy{{}}
	_, err = RouteConfiguration(routes, Options{})
	want := "virtual_hosts[0].routes[0].route.hash_policy[0]: one of header, cookie, connection_properties, query_parameter, filter_state must be set"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
