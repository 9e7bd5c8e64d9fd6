package decode

import (
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
)

func TestTheOtherChoicesOfTheConnectionManagerAreDecoded(t *testing.T) {
	got := load(t, "http_more.yaml").Listeners[0].Chains[0].Filters[0].HTTP
	got.Routes, got.Filters = nil, nil
	same(t, "connection manager", got, &config.HTTPConnectionManager{
		StatPrefix: "s", Codec: config.CodecHTTP1, ServerName: "envoy", ServerHeader: config.ServerPassThrough, SchemeMatchUp: true,
		HTTP1: config.HTTP1Options{
			AllowAbsoluteURL: true, SendAbsoluteURL: true, StreamErrorsOnly: true, IgnoreUpgrades: []certs.StringMatcher{*prefixed("TLS")},
		},
		Common:              config.CommonHTTPOptions{MaxHeaders: 100, Underscores: config.UnderscoresDrop},
		MaxRequestHeadersKB: 60, StreamIdleTimeout: 5 * time.Minute, DrainTimeout: 5 * time.Second, DelayedCloseTimeout: time.Second,
		GenerateRequestID: true, ForwardClientCert: config.XFCCAlwaysForwardOnly, SetClientCert: config.ClientCertDetails{Cert: true, Chain: true},
		EscapedSlashes: config.SlashesUnescapeRedirect, StripMatchingPort: true, StreamErrorOnInvalid: true, AddProxyProtocolHeader: true,
	})
}

func TestTheOtherChoicesOfRoutesAreDecoded(t *testing.T) {
	routes := load(t, "http_more.yaml").Listeners[0].Chains[0].Filters[0].HTTP.Routes
	host := routes.VirtualHosts[0]
	if routes.ValidateClusters || host.RequireTLS != config.TLSForAll {
		t.Errorf("clusters demanded: %v, TLS: %v; want false and for all", routes.ValidateClusters, host.RequireTLS)
	}
	same(t, "cors of the virtual host", host.CORS, &config.CORSPolicy{
		Origins: []certs.StringMatcher{*exact("*")}, AllowHeaders: "h", ExposeHeaders: "e", MaxAge: "5",
		PrivateNetwork: ptr(true), ForwardPreflights: ptr(false), ShadowPPM: 500000,
	})
	route := host.Routes[0]
	same(t, "match", route.Match, config.RouteMatch{
		Prefix: ptr("/"),
		Headers: []config.HeaderMatcher{
			{Name: "a", String: prefixed("p")},
			{Name: "b", String: &certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: "s"}},
			{Name: "c", String: &certs.StringMatcher{Kind: certs.MatchContains, Pattern: "c"}},
		},
		Metadata:    []config.MetadataMatcher{{Filter: "ns", Path: []string{"k"}, Value: config.ValueMatcher{Bool: ptr(true)}, Invert: true}},
		FilterState: []config.FilterStateMatcher{{Key: "fs", String: exact("v")}},
	})
	same(t, "action", route.Action, &config.RouteAction{
		Cluster: "not-known", NotFoundStatus: 500, HostRewrite: "lit", PrefixRewrite: "/x", Timeout: 15 * time.Second,
		GRPCTimeoutMax: ptr[time.Duration](0), GRPCTimeoutOff: time.Second, CORS: &config.CORSPolicy{AllowMethods: "PUT", EnabledPPM: 1000000},
	})
	for i, want := range []config.Redirect{{Status: 302}, {Status: 303, Path: "/p"}, {Status: 307}} {
		same(t, "redirect", host.Routes[i+1].Redirect, &want)
	}
	same(t, "overrides", route.PerFilter, wantOverrides())
}

func wantOverrides() map[string]*config.FilterOverride {
	metadata := func(filter, key string, v config.ValueMatcher) *config.MetadataMatcher {
		return &config.MetadataMatcher{Filter: filter, Path: []string{key}, Value: v}
	}
	state := config.FilterStateValue{Key: "k", FactoryKey: "envoy.string", Format: "x"}
	configs := map[string]any{
		"rbac": &config.HTTPRBAC{RBAC: &config.RBAC{Rules: &config.RBACRules{Action: config.LogOnly, Policies: []config.RBACPolicy{{
			Name: "p",
			Permissions: []*config.Permission{
				{Metadata: metadata("f", "k", config.ValueMatcher{Present: ptr(true)})},
				{Not: &config.Permission{Header: &config.HeaderMatcher{Name: "x"}}},
				{Metadata: metadata("g", "l", config.ValueMatcher{Null: true})},
			},
			Principals: []*config.Principal{
				{FilterState: &config.FilterStateMatcher{Key: "s", String: prefixed("p")}},
				{Header: &config.HeaderMatcher{Name: "hy", String: &certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: "z"}}},
				{Not: &config.Principal{Any: true}},
				{Metadata: metadata("g", "l", config.ValueMatcher{Number: &config.NumberMatcher{Exact: ptr(1.0)}})},
			},
		}}}}},
		"fault": &config.HTTPFault{
			Delay:   &config.FaultDelay{Fixed: 250 * time.Millisecond, PPM: 10000, Unit: 10000}, // by the runtime
			Abort:   &config.FaultAbort{Status: 418, PPM: 1000000, Unit: 10000},                 // by the runtime
			RatePPM: 10000, RateUnit: 10000, RateByHeader: true, MaxActive: ptr[uint32](4),
		},
		"limit": &config.LocalRateLimit{
			StatPrefix: "r", Status: 429, Bucket: &config.TokenBucket{Max: 1, PerFill: 3, Interval: 50 * time.Millisecond}, MaxDynamic: 20,
			RequestAdd: []config.HeaderValueOption{{Name: "x", Value: "vy"}}, GRPCResourceExhausted: true,
		},
		"buffer":  &config.HTTPBuffer{MaxBytes: 5},
		"jwt":     &config.JWTOverride{Requirement: "r"},
		"nojwt":   &config.JWTOverride{Disabled: true},
		"authz":   &config.ExtAuthzOverride{Extensions: map[string]string{"a": "b"}, NoBody: true},
		"noauthz": &config.ExtAuthzOverride{Disabled: true},
		"mutation": &config.HeaderMutation{
			RequestTrailers: []config.HeaderMutate{{Remove: "a"}}, ResponseTrailers: []config.HeaderMutate{{Remove: "b"}},
		},
		"compress":   &config.CompressorOverride{RemoveAccept: ptr(false)},
		"nocompress": &config.CompressorOverride{Disabled: true},
		"state":      &config.SetFilterState{OnRequest: []config.FilterStateValue{state}},
		"wrapped":    &config.CORSPolicy{EnabledPPM: 1000000},
	}
	out := map[string]*config.FilterOverride{}
	for name, c := range configs {
		out[name] = &config.FilterOverride{Config: c}
	}
	return out
}

func TestTheOtherChoicesOfFiltersAreDecoded(t *testing.T) {
	got := map[string]any{}
	for _, f := range load(t, "http_more.yaml").Listeners[0].Chains[0].Filters[0].HTTP.Filters {
		got[f.Name] = f.Config
	}
	patterns := func(s string) []certs.StringMatcher { return []certs.StringMatcher{*exact(s)} }
	provider := &config.JWTRequirement{Provider: "p"}
	same(t, "filters", got, map[string]any{
		"fault": &config.HTTPFault{
			Delay: &config.FaultDelay{ByHeader: true, PPM: 1000000, Unit: 10000}, Abort: &config.FaultAbort{ByHeader: true, PPM: 1000000, Unit: 10000},
			MaxActive: ptr[uint32](4),
		},
		"brotli": &config.Compressor{
			Library: "brotli", Level: 3, ContentTypes: []string{"text/css"}, MinLength: 40, RemoveAccept: true, ResponsePPM: 1000000, StatPrefix: "b",
		},
		"zstd": &config.Compressor{
			Library: "zstd", Level: 9, ContentTypes: compressedTypes(), MinLength: 30, OnETag: true, Request: true, StatPrefix: "z",
		},
		"health": &config.HTTPHealthCheckFilter{PassThrough: true, CacheTime: 2 * time.Second, Headers: []config.HeaderMatcher{{Name: ":path", String: exact("/h")}}},
		"jwt": &config.JWTAuthn{
			StripFailure: true, StatPrefix: "j", FilterStateName: "fs",
			Providers: map[string]*config.JWTProvider{"p": {
				RequireExpiration: true, FailedStatusInMetadata: "fs", NormalizeSpaces: []string{"scope"}, ClockSkew: time.Minute,
				Remote: &config.RemoteJWKS{
					URI: "http://k.example/jwks", Cluster: "up", Timeout: time.Second, CacheTime: time.Minute, FailedRefetch: time.Second,
					Retries: 1, BackoffBase: time.Second, BackoffMax: 10 * time.Second,
				},
			}},
			Requirements:     map[string]*config.JWTRequirement{"r": provider},
			FilterStateRules: map[string]*config.JWTRequirement{"a": provider},
		},
		"authz": &config.ExtAuthz{
			GRPC: &config.GRPCService{Cluster: "up", Timeout: 200 * time.Millisecond}, EnabledPPM: ptr[uint32](250000), StatusOnError: 403,
			DisallowedHeaders: []certs.StringMatcher{*prefixed("x-")}, EmitStats: true, IncludePeerCert: true, IncludeTLSSession: true,
			ValidateMutations: true, ClearRouteCache: true, FailOpenHeader: true, BootstrapLabelsKey: "l", StatPrefix: "p",
		},
		"authz2": &config.ExtAuthz{
			StatusOnError: 403, WithBody: &config.ExtAuthzBody{MaxBytes: 1, AsBytes: true},
			HTTP: &config.ExtAuthzHTTP{
				URI: "http://az", Cluster: "up", Timeout: time.Second, UpstreamHeadersToAppend: patterns("a"), ClientHeaders: patterns("b"),
				ClientHeadersOnSuccess: patterns("c"), DynamicMetadataHeaders: patterns("d"),
			},
		},
		"router": &config.HTTPRouter{
			StartChildSpan: true, UpstreamLogs: []*config.AccessLog{{Name: "l", Path: "/dev/stdout", Format: "%UPSTREAM_HOST%\n"}},
		},
	})
}

func TestTheOtherChoicesOfClustersAreDecoded(t *testing.T) {
	clusters := load(t, "http_more.yaml").Clusters
	same(t, "by ALPN", clusters[0].HTTP, config.UpstreamHTTP{
		Mode: config.UpstreamAuto, TakesHTTP2: true, HTTP1: config.HTTP1Options{AllowAbsoluteURL: true, EnableTrailers: true},
		HTTP2:  config.HTTP2Options{AllowConnect: true},
		Common: config.CommonHTTPOptions{IdleTimeout: time.Hour, MaxHeaders: 100, MaxHeadersKB: 90, MaxStreamTime: 4 * time.Second, MaxRequests: 3},
	})
	same(t, "HTTP/1", clusters[1].HTTP, config.UpstreamHTTP{
		HTTP1:  config.HTTP1Options{AllowAbsoluteURL: true, SendAbsoluteURL: true},
		Common: config.CommonHTTPOptions{IdleTimeout: time.Hour, MaxHeaders: 100},
	})
}
