package rbac_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/rbac"
	"outrider/proxy/stats"
)

var (
	anyone  = []*config.Principal{{Any: true}}
	atAll   = []*config.Permission{{Any: true}}
	admins  = []*config.Permission{{URLPath: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "/admin"}}}
	special = []*config.Permission{{Header: &config.HeaderMatcher{Name: "x-special"}}}
)

func rules(action config.RBACAction, policies ...config.RBACPolicy) *config.RBACRules {
	return &config.RBACRules{Action: action, Policies: policies}
}

func factory(t testing.TB, r *stats.Registry, cfg *config.RBAC) *rbac.Factory {
	t.Helper()
	f, err := rbac.New(&config.HTTPFilter{Name: "rbac", Config: &config.HTTPRBAC{RBAC: cfg}}, filtertest.Deps(r))
	if err != nil {
		t.Fatal(err)
	}
	out, ok := f.(*rbac.Factory)
	if !ok {
		t.Fatalf("it made %T", f)
	}
	return out
}

// judgement is a request and what the rules make of it.
type judgement struct {
	cfg      config.RBAC
	override *config.FilterOverride
	path     string
	details  string // "": allowed
	metadata map[string]any
	counters map[string]uint64 // all that are not 0
}

func judgements() map[string]judgement {
	return map[string]judgement{
		"no rules allow": {path: "/"},
		"ALLOW, a policy matches": {
			cfg:      config.RBAC{Rules: rules(config.Allow, config.RBACPolicy{Name: "adm", Permissions: admins, Principals: anyone})},
			path:     "/admin/x?q",
			metadata: map[string]any{"enforced_effective_policy_id": "adm", "enforced_engine_result": "allowed"},
			counters: map[string]uint64{"rbac.allowed": 1},
		},
		"ALLOW, none matches": {
			cfg:  config.RBAC{Rules: rules(config.Allow, config.RBACPolicy{Name: "adm", Permissions: admins, Principals: anyone})},
			path: "/other", details: "rbac_access_denied_matched_policy[none]",
			metadata: map[string]any{"enforced_engine_result": "denied"},
			counters: map[string]uint64{"rbac.denied": 1},
		},
		"DENY names its policy, without spaces": {
			cfg:  config.RBAC{StatPrefix: "p", PerPolicy: true, Rules: rules(config.Deny, config.RBACPolicy{Name: "my pol", Permissions: special, Principals: anyone})},
			path: "/", details: "rbac_access_denied_matched_policy[my_pol]",
			metadata: map[string]any{"penforced_effective_policy_id": "my pol", "penforced_engine_result": "denied"},
			counters: map[string]uint64{"rbac.p.denied": 1, "rbac.p.policy.my pol.denied": 1},
		},
		"shadow rules leave traces only": {
			cfg:      config.RBAC{ShadowStatPrefix: "sh.", PerPolicy: true, Shadow: rules(config.Deny, config.RBACPolicy{Name: "s", Permissions: atAll, Principals: anyone})},
			path:     "/",
			metadata: map[string]any{"sh.shadow_effective_policy_id": "s", "sh.shadow_engine_result": "denied"},
			counters: map[string]uint64{"rbac.sh.shadow_denied": 1, "rbac.sh.policy.s.shadow_denied": 1},
		},
		"shadow and rules together": {
			cfg:      config.RBAC{Rules: rules(config.Allow, config.RBACPolicy{Name: "a", Permissions: atAll, Principals: anyone}), Shadow: rules(config.Deny)},
			path:     "/",
			metadata: map[string]any{"enforced_effective_policy_id": "a", "enforced_engine_result": "allowed", "shadow_engine_result": "allowed"},
			counters: map[string]uint64{"rbac.allowed": 1, "rbac.shadow_allowed": 1},
		},
		"a route's rules replace the filter's": {
			cfg:      config.RBAC{StatPrefix: "own", Rules: rules(config.Allow)},
			override: &config.FilterOverride{Config: &config.HTTPRBAC{RBAC: &config.RBAC{StatPrefix: "route", PerPolicy: true, Rules: rules(config.Deny, config.RBACPolicy{Name: "r", Permissions: atAll, Principals: anyone})}}},
			path:     "/", details: "rbac_access_denied_matched_policy[r]",
			metadata: map[string]any{"routeenforced_effective_policy_id": "r", "routeenforced_engine_result": "denied"},
			counters: map[string]uint64{"rbac.own.denied": 1, "rbac.own.policy.r.denied": 1},
		},
		"a route's metadata without prefix has the filter's": {
			cfg:      config.RBAC{StatPrefix: "own", Rules: rules(config.Allow)},
			override: &config.FilterOverride{Config: &config.HTTPRBAC{RBAC: &config.RBAC{Rules: rules(config.Deny)}}},
			path:     "/",
			metadata: map[string]any{"ownenforced_engine_result": "allowed"},
			counters: map[string]uint64{"rbac.own.allowed": 1},
		},
		"a route without rules lets all through": {
			cfg:      config.RBAC{Rules: rules(config.Allow)},
			override: &config.FilterOverride{Config: &config.HTTPRBAC{}},
			path:     "/",
		},
	}
}

func TestRulesDecideOnRequests(t *testing.T) {
	for name, c := range judgements() {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			f := factory(t, reg, &c.cfg)
			s := filtertest.New(t)
			if c.override != nil {
				s.Overriding = []*config.FilterOverride{c.override}
			}
			s.Start(f).RequestHead(filtertest.Request("GET", c.path, "x-special", "1"), true)
			switch {
			case c.details == "" && s.Up.Head == nil:
				t.Errorf("denied with %+v, want it allowed", s.Replied)
			case c.details != "":
				want := &filter.Reply{Status: 403, Body: "RBAC: access denied", Details: c.details}
				if diff := cmp.Diff(want, s.Replied); diff != "" {
					t.Errorf("reply (-want +got):\n%s", diff)
				}
			}
			var got map[string]any
			if m := s.Info().DynamicMetadata["envoy.filters.http.rbac"]; m != nil {
				got = m.AsMap()
			}
			if diff := cmp.Diff(c.metadata, got); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.counters, filtertest.Counters(t, reg, "http.test.")); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestMetadataOfEarlierFiltersCounts(t *testing.T) {
	claim := &config.MetadataMatcher{Filter: "envoy.filters.http.jwt_authn", Path: []string{"payload", "iss"}, Value: config.ValueMatcher{String: &certs.StringMatcher{Pattern: "me"}}}
	f := factory(t, stats.New(), &config.RBAC{Rules: rules(config.Allow, config.RBACPolicy{Name: "a", Permissions: atAll, Principals: []*config.Principal{{Metadata: claim}}})})
	for issuer, allowed := range map[string]bool{"me": true, "you": false} {
		s := filtertest.New(t)
		payload, err := structpb.NewValue(map[string]any{"iss": issuer})
		if err != nil {
			t.Fatal(err)
		}
		s.Info().SetMetadata("envoy.filters.http.jwt_authn", "payload", payload)
		s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
		if got := s.Up.Head != nil; got != allowed {
			t.Errorf("issuer %q is allowed: %v, want %v", issuer, got, allowed)
		}
	}
}

func TestLogActionHintsTheAccessLog(t *testing.T) {
	f := factory(t, stats.New(), &config.RBAC{Rules: rules(config.LogOnly, config.RBACPolicy{Name: "a", Permissions: admins, Principals: anyone})})
	for path, want := range map[string]bool{"/admin": true, "/": false} {
		s := filtertest.New(t)
		s.Start(f).RequestHead(filtertest.Request("GET", path), true)
		if got := s.Info().DynamicMetadata["envoy.common"].AsMap()["access_log_hint"]; got != want || s.Up.Head == nil {
			t.Errorf("%s: the hint is %v, want %v; passed: %v", path, got, want, s.Up.Head != nil)
		}
	}
}

func TestExplainIsTheDecisionWithoutTraces(t *testing.T) {
	reg := stats.New()
	f := factory(t, reg, &config.RBAC{
		Rules:  rules(config.Allow, config.RBACPolicy{Name: "adm", Permissions: admins, Principals: anyone}),
		Shadow: rules(config.Deny),
	})
	info := filtertest.New(t).Info()
	info.HTTP.Request = filtertest.Request("GET", "/other?q=1")
	e := f.Explain(info, nil)
	if !e.Denied || e.Rules == nil || e.Shadow == nil || !e.Shadow.Allowed {
		t.Fatalf("explained %+v; want denied, and allowed by the shadow rules", e)
	}
	for _, want := range []string{`request GET "host" "/other"`, `url_path prefix "/admin": it is "/other"`} {
		if !strings.Contains(e.Reason+strings.Join(e.Rules.Policies[0].Failed, ""), want) {
			t.Errorf("%q with %q does not say %q", e.Reason, e.Rules.Policies[0].Failed, want)
		}
	}
	if info.DynamicMetadata != nil || len(filtertest.Counters(t, reg, "")) > 0 {
		t.Error("explaining has left traces")
	}
	if e := f.Explain(info, &config.FilterOverride{Config: &config.HTTPRBAC{}}); e.Denied || e.Rules != nil || e.Shadow != nil {
		t.Errorf("a route without rules has %+v", e)
	}
	if e := f.Explain(info, &config.FilterOverride{Config: 1}); !e.Denied || !strings.Contains(e.Reason, "int") {
		t.Errorf("a broken route has %+v, want a denial", e)
	}
}

func TestMistakesAreToldAndFailClosed(t *testing.T) {
	bad := &config.RBAC{Rules: rules(config.Allow, config.RBACPolicy{Name: "p", Permissions: []*config.Permission{{}}}), Shadow: rules(7)}
	_, err := rbac.New(&config.HTTPFilter{Config: &config.HTTPRBAC{RBAC: bad}}, filtertest.Deps(stats.New()))
	if err == nil || !strings.Contains(err.Error(), `rules.policies["p"].permissions[0]`) || !strings.Contains(err.Error(), "shadow_rules.action") {
		t.Errorf("the error is %v, want both mistakes", err)
	}
	f := factory(t, stats.New(), &config.RBAC{})
	for _, cfg := range []any{&config.HTTPRBAC{RBAC: bad}, "text"} {
		s := filtertest.New(t)
		s.Overriding = []*config.FilterOverride{{Config: cfg}}
		s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
		if s.Replied == nil || s.Replied.Status != 500 || s.Up.Head != nil {
			t.Errorf("a route with %T got %+v, want 500", cfg, s.Replied)
		}
	}
}

func BenchmarkRequestHead(b *testing.B) {
	f := factory(b, stats.New(), &config.RBAC{Rules: rules(config.Allow,
		config.RBACPolicy{Name: "adm", Permissions: admins, Principals: anyone},
		config.RBACPolicy{Name: "special", Permissions: special, Principals: []*config.Principal{{Not: &config.Principal{Header: &config.HeaderMatcher{Name: "x-no"}}}}},
	)})
	s := filtertest.New(b)
	h := filtertest.Request("GET", "/a/b/c?d=e", "x-special", "1", "accept", "*/*", "user-agent", "bench")
	s.Info().HTTP.Request = h
	b.ReportAllocs()
	for b.Loop() {
		s.Info().DynamicMetadata = nil
		if f.New(s).RequestHead(h, true) != filter.Continue {
			b.Fatal("denied")
		}
	}
}
