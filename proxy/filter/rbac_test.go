package filter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/rbac"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

func exact(s string) *certs.StringMatcher {
	return &certs.StringMatcher{Kind: certs.MatchExact, Pattern: s}
}

func cidr(s string) *netip.Prefix {
	p := netip.MustParsePrefix(s)
	return &p
}

func pointer[T any](v T) *T { return &v }

// certOf is a certificate with the names given. Nothing verifies it here.
func certOf(t *testing.T, subject pkix.Name, uris, dns []string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, DNSNames: dns, NotAfter: time.Now().Add(time.Hour)}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

const (
	webID  = "spiffe://prod/ns/web/sa/cart"
	evilID = "spiffe://prod/ns/evil/sa/x"
)

func verifiedPeer(t *testing.T, verified bool, uris ...string) *tlsmux.State {
	t.Helper()
	cert := certOf(t, pkix.Name{CommonName: "cart", Organization: []string{"acme"}}, uris, []string{"cart.web"})
	return &tlsmux.State{Peer: []*x509.Certificate{cert}, PeerVerified: verified}
}

func described() *flow.Info {
	addr := func(s string) flow.Addr { return flow.Addr{AddrPort: netip.MustParseAddrPort(s)} }
	return &flow.Info{
		Remote: addr("10.0.0.7:40000"), DirectRemote: addr("192.168.1.1:50000"),
		Local: addr("10.1.2.3:8443"), DirectLocal: addr("127.0.0.1:15006"), SNI: "orders.shop",
	}
}

func rules(action config.RBACAction, policies ...config.RBACPolicy) *config.RBACRules {
	return &config.RBACRules{Action: action, Policies: policies}
}

func policyOf(name string, pr *config.Principal) config.RBACPolicy {
	return config.RBACPolicy{Name: name, Permissions: []*config.Permission{{Any: true}}, Principals: []*config.Principal{pr}}
}

var (
	everyone = &config.Principal{Any: true}
	nobody   = &config.Principal{Not: &config.Principal{Any: true}}
)

func TestActionDecides(t *testing.T) {
	for name, c := range map[string]struct {
		rules   *config.RBACRules
		allowed bool
		policy  string
	}{
		"no rules allow":                   {rules: nil, allowed: true},
		"empty rules deny":                 {rules: rules(config.Allow)},
		"ALLOW, a policy matches":          {rules: rules(config.Allow, policyOf("a", nobody), policyOf("b", everyone), policyOf("c", everyone)), allowed: true, policy: "b"},
		"ALLOW, none matches":              {rules: rules(config.Allow, policyOf("a", nobody))},
		"DENY, a policy matches":           {rules: rules(config.Deny, policyOf("a", nobody), policyOf("b", everyone)), policy: "b"},
		"DENY, none matches":               {rules: rules(config.Deny, policyOf("a", nobody)), allowed: true},
		"LOG, a policy matches":            {rules: rules(config.LogOnly, policyOf("a", everyone)), allowed: true, policy: "a"},
		"LOG, none matches":                {rules: rules(config.LogOnly, policyOf("a", nobody)), allowed: true},
		"a policy needs a permission":      {rules: rules(config.Allow, config.RBACPolicy{Name: "a", Principals: []*config.Principal{everyone}})},
		"a policy needs a principal":       {rules: rules(config.Allow, config.RBACPolicy{Name: "a", Permissions: []*config.Permission{{Any: true}}})},
		"DENY by what only HTTP has":       {rules: rules(config.Deny, policyOf("a", &config.Principal{HTTPOnly: true})), allowed: true},
		"DENY by the lack of what is HTTP": {rules: rules(config.Deny, policyOf("a", &config.Principal{Not: &config.Principal{HTTPOnly: true}})), policy: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			ch := mustChain(t, Deps{Stats: reg}, &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x", Rules: c.rules}}, echoFilter())
			s := serve(t, ch, nil)
			s.send("hi")
			s.client.CloseWrite()
			got, _ := s.receive() // a refusal may be a reset
			err := s.end()
			if allowed := got == "hi" && err == nil; allowed != c.allowed {
				t.Errorf("received %q, %v; want allowed: %v", got, err, c.allowed)
			}
			v := ch.Explain(described())[0]
			if v.Denied == c.allowed || v.Policy != c.policy {
				t.Errorf("explained as %+v, want policy %q, allowed %v", v, c.policy, c.allowed)
			}
			scope := reg.Tagged("envoy_rbac_prefix", "x").Scope("rbac")
			want := [2]uint64{0, 1}
			if c.rules == nil {
				want = [2]uint64{}
			} else if c.allowed {
				want = [2]uint64{1, 0}
			}
			if got := [2]uint64{scope.Counter("allowed").Value(), scope.Counter("denied").Value()}; got != want {
				t.Errorf("allowed and denied are %v, want %v", got, want)
			}
		})
	}
}

func TestDenialEndsTheConnectionBeforeTheUpstreamIsDialled(t *testing.T) {
	log := &recorder{}
	deny := &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x.", Rules: rules(config.Deny, policyOf("my pol", everyone))}}
	p, err := newTCPProxy("tcp", tcp("c", nil).TCPProxy, pointer(Deps{Stats: stats.New()}.withDefaults()))
	if err != nil {
		t.Fatal(err)
	}
	p.clusters = func(string) upstream { t.Error("a cluster was looked for"); return nil }
	p.logs = []AccessLogger{log}
	ch := mustChain(t, Deps{}, deny, echoFilter())
	ch.terminal = p
	s := serve(t, ch, nil)
	s.expect("")
	var end *flow.EndError
	if err := s.end(); !errors.As(err, &end) || end.Stage != flow.StageNetworkFilter || end.Flags != 0 {
		t.Errorf("it ended with %#v, want a refusal by a network filter without flags", err)
	}
	if !strings.Contains(end.Error(), `DENY policy "my pol"`) {
		t.Errorf("the reason %q does not name the policy", end)
	}
	want := []string{"TcpConnectionEnd  rbac_access_denied_matched_policy[my_pol] rbac_deny_close"}
	if diff := cmp.Diff(want, log.all()); diff != "" {
		t.Errorf("access log (-want +got):\n%s", diff)
	}
}

func TestShadowRulesOnlyLeaveTraces(t *testing.T) {
	for name, c := range map[string]struct {
		shadow *config.RBACRules
		prefix string
		want   map[string]any
		stat   string
	}{
		"denied":  {shadow: rules(config.Deny, policyOf("p", everyone)), prefix: "sh.", want: map[string]any{"sh.shadow_effective_policy_id": "p", "sh.shadow_engine_result": "denied"}, stat: "sh.shadow_denied"},
		"allowed": {shadow: rules(config.Deny), prefix: "sh", want: map[string]any{"shshadow_engine_result": "allowed"}, stat: "sh.shadow_allowed"},
		"plain":   {shadow: rules(config.Allow, policyOf("q", everyone)), want: map[string]any{"shadow_effective_policy_id": "q", "shadow_engine_result": "allowed"}, stat: "shadow_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			ch := mustChain(t, Deps{Stats: reg}, &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x", Shadow: c.shadow, ShadowStatPrefix: c.prefix}}, echoFilter())
			s := serve(t, ch, nil)
			s.client.CloseWrite()
			s.expect("")
			if err := s.end(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, s.info.DynamicMetadata[rbacNamespace].AsMap()); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if n := reg.Tagged("envoy_rbac_prefix", "x").Scope("rbac").Counter(c.stat).Value(); n != 1 {
				t.Errorf("%s is %d, want 1", c.stat, n)
			}
			if info := described(); ch.Explain(info)[0].Shadow == nil || info.DynamicMetadata != nil {
				t.Error("explaining has left traces, or nothing is said of the shadow rules")
			}
		})
	}
}

func TestLogActionHintsTheAccessLog(t *testing.T) {
	ch := mustChain(t, Deps{}, &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x", Rules: rules(config.LogOnly, policyOf("p", everyone))}}, echoFilter())
	s := serve(t, ch, nil)
	s.client.CloseWrite()
	s.expect("")
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	if got := s.info.DynamicMetadata["envoy.common"].AsMap()["access_log_hint"]; got != true {
		t.Errorf("access_log_hint is %v, want true", got)
	}
}

// held is a connection that needs no socket.
type held struct{ relay.Conn }

func (held) CloseWrite() error { return nil }

func TestDelayDenyHoldsTheDeniedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := mustChain(t, Deps{}, &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x", Rules: rules(config.Allow), DelayDeny: time.Minute}}, echoFilter())
		start := time.Now()
		err := serveToEnd(ch, t.Context(), &Conn{Conn: held{}, Info: described()})
		if took := time.Since(start); err == nil || took != time.Minute {
			t.Errorf("ended after %s with %v, want a denial after 1m", took, err)
		}
	})
}

func TestExplainNamesTheFirstCriterionThatFailed(t *testing.T) {
	set := rules(config.Allow,
		config.RBACPolicy{
			Name:        "by port",
			Permissions: []*config.Permission{{And: []*config.Permission{{Any: true}, {DestinationPort: pointer[uint16](80)}, {RequestedServer: exact("x")}}}, {DestinationIP: cidr("1.2.3.4/32")}},
			Principals:  []*config.Principal{everyone},
		},
		policyOf("by name", &config.Principal{Authenticated: &config.Authenticated{Name: exact(webID)}}),
	)
	ch := mustChain(t, Deps{}, &config.NetworkFilter{Name: "authz", RBAC: &config.RBAC{StatPrefix: "x", Rules: set}}, echoFilter())
	info := described()
	info.Downstream = verifiedPeer(t, true, evilID)
	want := []Verdict{{
		Filter: "authz", Type: "rbac", Denied: true,
		Reason: `rbac: denied: none of 2 ALLOW policies matches peer ` + evilID + `, cart.web, CN=cart,O=acme from 10.0.0.7:40000 to 10.1.2.3:8443, server name "orders.shop"`,
		Policies: []rbac.PolicyResult{
			{Policy: "by port", Failed: []string{
				`permission destination_port 80: it is 10.1.2.3:8443`,
				`permission destination_ip 1.2.3.4/32: it is "10.1.2.3"`,
			}},
			{Policy: "by name", Failed: []string{
				`principal principal_name exact "` + webID + `": the client is ` + evilID + `, cart.web, CN=cart,O=acme`,
			}},
		},
	}}
	if diff := cmp.Diff(want, ch.Explain(info)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		tls  *tlsmux.State
		want string
	}{
		"plaintext":   {want: "without TLS"},
		"anonymous":   {tls: &tlsmux.State{}, want: "without certificate"},
		"unverified":  {tls: verifiedPeer(t, false, webID), want: "with an unverified certificate (" + webID + ", cart.web, CN=cart,O=acme)"},
		"is the peer": {tls: verifiedPeer(t, true, webID), want: ""},
	} {
		info.Downstream = c.tls
		v := ch.Explain(info)[0]
		if v.Denied != (c.want != "") {
			t.Errorf("%s: denied %v", name, v.Denied)
		}
		if c.want != "" && !strings.HasSuffix(v.Policies[1].Failed[0], c.want) {
			t.Errorf("%s: %q does not end with %q", name, v.Policies[1].Failed[0], c.want)
		}
	}
}

func TestMistakesInRulesAreAllReported(t *testing.T) {
	bad := rules(config.Allow, config.RBACPolicy{
		Name:        "p",
		Permissions: []*config.Permission{{}, nil, {And: []*config.Permission{{Any: true}, {}}}},
		Principals:  []*config.Principal{{}, {Not: &config.Principal{}}, {FilterState: &config.FilterStateMatcher{Key: "k"}}},
	})
	_, err := NewChain([]*config.NetworkFilter{{Name: "r", RBAC: &config.RBAC{Rules: bad, Shadow: rules(7)}}, echoFilter()}, Deps{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`rules.policies["p"].permissions[0]: no rule is set`, `permissions[1]: no rule`, `permissions[2]: [1]: no rule`,
		`principals[0]: no rule`, `principals[1]: not_id: no rule`, `filter_state "k": no matcher`, `shadow_rules.action: 7`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestRBACOnThePeersOwnWordIsRefused(t *testing.T) {
	byPeer := &config.Principal{Or: []*config.Principal{{Not: &config.Principal{FilterState: &config.FilterStateMatcher{Key: "downstream_peer", String: exact("x")}}}}}
	for _, order := range [][]*config.NetworkFilter{
		{{Name: "mx", MetadataExchange: &config.MetadataExchange{Protocol: "p"}}, {Name: "r", RBAC: &config.RBAC{Rules: rules(config.Deny, policyOf("p", byPeer))}}},
		{{Name: "r", RBAC: &config.RBAC{Shadow: rules(config.Deny, policyOf("p", byPeer))}}},
	} {
		if _, err := NewChain(slices.Concat(order, []*config.NetworkFilter{echoFilter()}), Deps{}); err == nil || !strings.Contains(err.Error(), "downstream_peer") {
			t.Errorf("the error is %v, want a refusal of downstream_peer", err)
		}
	}
}
