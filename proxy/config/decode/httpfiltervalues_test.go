package decode

import (
	"net/netip"
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
)

func TestHTTPFiltersAreDecoded(t *testing.T) {
	got := map[string]*config.HTTPFilter{}
	for _, f := range load(t, "http.yaml").Listeners[0].Chains[0].Filters[0].HTTP.Filters {
		got[f.Name] = f
	}
	want := map[string]any{
		"rbac":     wantRBAC(),
		"cors":     &config.HTTPCORS{},
		"fault":    wantFault(),
		"health":   &config.HTTPHealthCheckFilter{MinHealthy: map[string]float64{"up": 25.5}, Headers: []config.HeaderMatcher{{Name: ":path", String: exact("/healthz")}}},
		"limit":    wantLimit(),
		"buffer":   &config.HTTPBuffer{MaxBytes: 1000},
		"mutation": wantMutation(),
		"grpcstats": &config.GRPCStats{
			Methods: map[string][]string{"a.B": {"C", "D"}}, EmitFilterState: true, UpstreamStats: true,
		},
		"compressor": &config.Compressor{
			Library: "gzip", Level: 1, ContentTypes: []string{"text/html"}, MinLength: 50, RemoveAccept: true, ResponsePPM: 1000000,
			UncompressibleCodes: []uint32{206}, ChooseFirst: true, StatPrefix: "z",
		},
		"jwt":    wantJWT(t, got["jwt"]),
		"authz":  wantAuthz(),
		"authz2": wantAuthzHTTP(),
		"state": &config.SetFilterState{OnRequest: []config.FilterStateValue{
			{Key: "k", FactoryKey: "envoy.string", Format: "%REQ(X-State)%", Shared: 2, ReadOnly: true, SkipIfEmpty: true},
		}},
		"router": &config.HTTPRouter{
			NoDynamicStats: true, SuppressEnvoyHeaders: true, StrictCheckHeaders: []string{"x-envoy-upstream-rq-timeout-ms"},
			RespectExpectedRq: true, NoGRPCRequestFailures: true,
		},
	}
	if len(got) != len(want) {
		t.Errorf("got %d filters, want %d", len(got), len(want))
	}
	for name, wanted := range want {
		if got[name] == nil {
			t.Errorf("%s is not there", name)
			continue
		}
		same(t, name, got[name].Config, wanted)
		if got[name].Disabled != (name == "fault") {
			t.Errorf("%s: disabled is %v", name, got[name].Disabled)
		}
	}
}

func wantRBAC() *config.HTTPRBAC {
	ten, eleven := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("11.0.0.0/8")
	return &config.HTTPRBAC{RBAC: &config.RBAC{
		StatPrefix: "r", ShadowStatPrefix: "sh",
		Rules: &config.RBACRules{Policies: []config.RBACPolicy{{
			Name: "p",
			Permissions: []*config.Permission{{And: []*config.Permission{
				{Header: &config.HeaderMatcher{Name: ":method", String: exact("GET")}},
				{URLPath: prefixed("/a")},
				{Template: "/a/{b}"},
			}}},
			Principals: []*config.Principal{{SourceIP: &ten, Forwarded: true}, {SourceIP: &eleven}},
		}}},
		Shadow: &config.RBACRules{Action: config.Deny, Policies: []config.RBACPolicy{{
			Name: "q", Permissions: []*config.Permission{{Any: true}}, Principals: []*config.Principal{{URLPath: exact("/s")}},
		}}},
	}}
}

func wantFault() *config.HTTPFault {
	return &config.HTTPFault{
		Delay:   &config.FaultDelay{Fixed: time.Second, PPM: 50000, Unit: 10000},
		Abort:   &config.FaultAbort{GRPC: ptr[uint32](14), PPM: 1, Unit: 1},
		RatePPM: 1000000, RateUnit: 10000, RateKBps: 2, UpstreamCluster: "up", Headers: []config.HeaderMatcher{{Name: "x"}},
		DownstreamNodes: []string{"other"}, MaxActive: ptr[uint32](3), NoStatsByCluster: true,
	}
}

func wantLimit() *config.LocalRateLimit {
	return &config.LocalRateLimit{
		StatPrefix: "l", Status: 503, Bucket: &config.TokenBucket{Max: 10, PerFill: 1, Interval: time.Second},
		EnabledPPM: 500000, EnforcedPPM: 1000000, ResponseAdd: []config.HeaderValueOption{{Name: "x-limited", Value: "1"}},
		PerConnection: true, XRateLimitHeaders: true, RetryAfter: true, MaxDynamic: 20, SkipDefault: true, Stage: 3,
		VirtualHosts: config.RatesInclude,
		Descriptors: []config.RateDescriptor{{
			Entries: [][2]string{{"generic_key", "g"}, {"remote_address", ""}},
			Bucket:  config.TokenBucket{Max: 2, PerFill: 2, Interval: time.Minute},
		}},
	}
}

func wantMutation() *config.HeaderMutation {
	return &config.HeaderMutation{
		Request: []config.HeaderMutate{
			{Remove: "x-r"}, {Append: &config.HeaderValueOption{Name: "x-s", Value: "s", Action: config.HeaderAddIfAbsent}}, {RemoveOnMatch: prefixed("x-t")},
		},
		MostSpecificWins: true,
	}
}

func wantJWT(t *testing.T, f *config.HTTPFilter) *config.JWTAuthn {
	t.Helper()
	keys := f.Config.(*config.JWTAuthn).Providers["local"].LocalJWKS
	if len(keys) < 100 {
		t.Errorf("local_jwks is %q", keys)
	}
	both := &config.JWTRequirement{Any: []*config.JWTRequirement{
		{Provider: "local"}, {Provider: "remote", Audiences: []string{"x"}}, {AllowMissing: true},
	}}
	return &config.JWTAuthn{
		BypassCORS: true,
		Providers: map[string]*config.JWTProvider{
			"local": {
				Issuer: "i", Audiences: []string{"a"}, Subjects: prefixed("s"), MaxLifetime: time.Hour, LocalJWKS: keys, Forward: true,
				FromHeaders: []config.JWTHeader{{Name: "x-token", Prefix: "T "}}, FromParams: []string{"t"}, FromCookies: []string{"tc"},
				ForwardPayloadHeader: "x-payload", PadPayloadHeader: true, PayloadInMetadata: "pm", HeaderInMetadata: "hm",
				ClockSkew: time.Minute, ClaimToHeaders: [][2]string{{"x-sub", "a.b"}}, ClearRouteCache: true,
			},
			"remote": {ClockSkew: 5 * time.Second, Remote: &config.RemoteJWKS{
				URI: "https://k.example/jwks", Cluster: "up", Timeout: time.Second, CacheTime: 10 * time.Minute, AsyncFetch: true,
				FastListener: true, FailedRefetch: time.Second, Retries: 3, BackoffBase: 10 * time.Millisecond, BackoffMax: 100 * time.Millisecond,
			}},
		},
		Requirements: map[string]*config.JWTRequirement{"any": both},
		Rules: []config.JWTRule{
			{Match: config.RouteMatch{Prefix: ptr("/open")}},
			{Match: config.RouteMatch{Prefix: ptr("/any")}, Requires: both},
			{Match: config.RouteMatch{Prefix: ptr("/")}, Requires: &config.JWTRequirement{All: []*config.JWTRequirement{{Provider: "local"}, {AllowMissingOrFailed: true}}}},
		},
	}
}

func wantAuthz() *config.ExtAuthz {
	return &config.ExtAuthz{
		GRPC:     &config.GRPCService{Cluster: "up", Authority: "az", Timeout: time.Second, Metadata: [][2]string{{"x-meta", "m"}}},
		FailOpen: true, WithBody: &config.ExtAuthzBody{MaxBytes: 5, AllowPartial: true}, StatusOnError: 503, MetadataContext: []string{"ns"},
		EnabledMetadata: &config.MetadataMatcher{Filter: "envoy.filters.http.rbac", Path: []string{"k"}, Value: config.ValueMatcher{String: prefixed("x")}},
		DenyAtDisable:   true, AllowedHeaders: []certs.StringMatcher{*exact("a")}, AllowedSet: true,
		DecoderHeaderMutation: &config.HeaderMutationRules{Disallow: &certs.StringMatcher{Kind: certs.MatchRegex, Pattern: "x-.*"}},
	}
}

func wantAuthzHTTP() *config.ExtAuthz {
	return &config.ExtAuthz{
		StatusOnError: 403,
		HTTP: &config.ExtAuthzHTTP{
			URI: "http://az", Cluster: "up", Timeout: 250 * time.Millisecond, PathPrefix: "/check",
			RequestAdd: [][2]string{{"x-from", "me"}}, UpstreamHeaders: []certs.StringMatcher{*prefixed("x-")},
		},
	}
}
