package decode

import (
	"crypto/tls"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/tlsmux"
)

func load(t *testing.T, name string) *config.Bootstrap {
	t.Helper()
	b, err := BootstrapFile("testdata/"+name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAClusterOfOneNameHasEnvoysDefaults(t *testing.T) {
	got, err := Cluster(&clusterv3.Cluster{Name: "c"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Cluster{
		Name: "c", ConnectTimeout: 5 * time.Second,
		Assignment:   &config.Assignment{ClusterName: "c", Overprovisioning: 140},
		DNS:          config.DNS{RefreshRate: 5 * time.Second, FailureRefreshBase: 5 * time.Second, FailureRefreshMax: 5 * time.Second},
		LeastRequest: config.LeastRequest{Choices: 2, Bias: 1},
		RingHash:     config.RingHash{Min: 1024, Max: 8388608},
		Maglev:       config.Maglev{TableSize: 65537},
		LBCommon:     config.LBCommon{PanicThreshold: 50},
		CircuitBreakers: [2]config.Thresholds{
			{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3, MaxPools: 1<<32 - 1},
			{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3, MaxPools: 1<<32 - 1},
		},
		PerConnectionBufferLimit: 1 << 20,
		HTTP: config.UpstreamHTTP{
			HTTP1:  config.HTTP1Options{AllowAbsoluteURL: true},
			Common: config.CommonHTTPOptions{IdleTimeout: time.Hour, MaxHeaders: 100},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(config.Cluster{}, "Digest", "Source"), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestSlowStartIsOfThePolicyThatIsUsed(t *testing.T) {
	const slow = "slow_start_config: {slow_start_window: 30s, aggression: {default_value: 2, runtime_key: r}, min_weight_percent: {value: 20}}"
	typed := func(policy, kind string) string {
		return `load_balancing_policy: {policies: [{typed_extension_config: {name: x, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.` + policy + ".v3." + kind + ", " + slow + "}}}]}"
	}
	want := config.SlowStart{Window: 30 * time.Second, Aggression: 2, MinWeight: 0.2}
	for text, want := range map[string]config.SlowStart{
		"round_robin_lb_config: {" + slow + "}":                                 want,
		"lb_policy: LEAST_REQUEST\n    least_request_lb_config: {" + slow + "}": want,
		"lb_policy: LEAST_REQUEST\n    round_robin_lb_config: {" + slow + "}":   {},
		"lb_policy: RANDOM\n    round_robin_lb_config: {" + slow + "}":          {},
		"round_robin_lb_config: {slow_start_config: {slow_start_window: 1s}}":   {Window: time.Second, Aggression: 1, MinWeight: 0.1},
		"round_robin_lb_config: {slow_start_config: {min_weight_percent: {}}}":  {Aggression: 1},
		typed("round_robin", "RoundRobin"):                                      want,
		typed("least_request", "LeastRequest"):                                  want,
	} {
		b, err := Bootstrap([]byte(strings.Replace(base, "    connect_timeout: 1s", "    "+text, 1)), Options{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := b.Clusters[0].SlowStart; got != want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
}

func TestPartsOfOneLocalityAreJoined(t *testing.T) {
	text := strings.Replace(base, "endpoints: [{lb", `endpoints: [{locality: {zone: a}, load_balancing_weight: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 2}}}}]}, {locality: {zone: a}, load_balancing_weight: 3}, {locality: {zone: a}, priority: 1}, {lb`, 1)
	b, err := Bootstrap([]byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := b.Clusters[0].Assignment.Localities
	if len(got) != 3 || got[0].Weight != 3 || len(got[0].Endpoints) != 1 || got[1].Priority != 1 {
		t.Errorf("got %d localities, the first %+v", len(got), got[0])
	}
}

func TestTheSeedsDualChainsAreRead(t *testing.T) {
	l := load(t, "sidecar.yaml").Listeners[0]
	var got []config.FilterChainMatch
	for _, c := range l.Chains {
		got = append(got, c.Match)
	}
	istio := []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
	want := []config.FilterChainMatch{
		{DestinationPort: 15006},
		{DestinationPort: 50051, TransportProtocol: "tls", ApplicationProtocols: istio},
		{DestinationPort: 50051, TransportProtocol: "raw_buffer"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	sds := &certs.Source{Cluster: "sds-grpc", SetNodeOnFirstMessageOnly: true}
	wantTLS := &tlsmux.ServerConfig{
		RequireClientCertificate: true,
		CommonConfig: tlsmux.CommonConfig{
			MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13,
			CipherSuites: []uint16{
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
			},
			ALPN:          []string{"istio-peer-exchange", "h2", "http/1.1"},
			Certificates:  []certs.Ref{{Name: "default", Source: sds}},
			Validation:    &certs.Validation{SANs: []certs.SANMatcher{{Match: certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "spiffe://cluster.local/"}}}},
			ValidationRef: &certs.Ref{Name: "ROOTCA", Source: sds},
		},
	}
	if diff := cmp.Diff(wantTLS, l.Chains[1].TLS); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if l.Chains[2].TLS != nil || l.FiltersTimeout != 0 || !l.ContinueOnTimeout || l.Direction != config.Inbound || !l.ReusePort {
		t.Errorf("got %+v", l)
	}
	if l.Chains[1].Digest == l.Chains[2].Digest {
		t.Error("two chains have one digest")
	}
}

func TestRBACIsReadWhole(t *testing.T) {
	got := load(t, "sidecar.yaml").Listeners[0].Chains[1].Filters[0].RBAC
	port, prefix := uint16(50051), netip.MustParsePrefix("10.1.0.0/16")
	direct, anywhere := netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("0.0.0.0/0")
	regex := func(s string) *certs.StringMatcher {
		return &certs.StringMatcher{Kind: certs.MatchRegex, Pattern: s}
	}
	want := &config.RBAC{
		StatPrefix: "tcp.", ShadowStatPrefix: "istio_dry_run_allow_",
		Shadow: &config.RBACRules{Policies: []config.RBACPolicy{{Name: "all", Permissions: []*config.Permission{{Any: true}}, Principals: []*config.Principal{{Any: true}}}}},
		Rules: &config.RBACRules{Action: config.Deny, Policies: []config.RBACPolicy{{
			Name: "ns[dev]-policy[deny]-rule[0]",
			Permissions: []*config.Permission{{And: []*config.Permission{
				{Or: []*config.Permission{{DestinationPort: &port}, {PortRange: &config.PortRange{Start: 8000, End: 9000}}}},
				{Not: &config.Permission{DestinationIP: &prefix}},
				{RequestedServer: regex("outbound_.*")},
			}}},
			Principals: []*config.Principal{{And: []*config.Principal{
				{Or: []*config.Principal{
					{Authenticated: &config.Authenticated{Name: regex(".*/ns/evil/.*")}},
					{Authenticated: &config.Authenticated{Name: &certs.StringMatcher{Pattern: "spiffe://cluster.local/ns/prod/sa/x"}}},
				}},
				{Not: &config.Principal{DirectRemoteIP: &direct}},
				{SourceIP: &anywhere},
				{Metadata: &config.MetadataMatcher{Filter: "istio_authn", Path: []string{"source.principal"}, Value: config.ValueMatcher{String: &certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: "/sa/x"}}}},
			}}},
		}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(certs.StringMatcher{}, "Regex"), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestTransportSocketMatchesAreReadInOrder(t *testing.T) {
	c := load(t, "outbound.yaml").Clusters[0]
	if len(c.SocketMatches) != 2 || c.SocketMatches[0].Name != "tlsMode-istio" || c.SocketMatches[1].Socket.TLS != nil {
		t.Fatalf("got %+v", c.SocketMatches)
	}
	got := c.SocketMatches[0].Socket.TLS
	if got.SNI != "outbound_.50051_.default_.uc.dev.svc.cluster.local" || got.MaxSessionKeys != 0 {
		t.Errorf("got %+v", got)
	}
	if want := []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256}; !cmp.Equal(got.Curves, want) {
		t.Errorf("got curves %v, want %v", got.Curves, want)
	}
	if want := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}; !cmp.Equal(got.CipherSuites, want) {
		t.Errorf("got suites %v, want %v", got.CipherSuites, want)
	}
	pair := got.Certificates[0].Inline.KeyPair
	if pair.ID.String() != "spiffe://cluster.local/ns/dev/sa/default" || pair.CertPath != "testdata/chain.pem" {
		t.Errorf("got %+v", pair)
	}
	v := got.Validation
	if len(v.Roots) != 1 || v.RootsPath != "testdata/ca.pem" || len(v.SANs) != 2 || v.SANs[0].Type != certs.SANURI || v.SANs[1].Type != certs.SANDNS || *v.MaxVerifyDepth != 3 || len(v.CertHashes) != 1 || len(v.SPKIHashes) != 1 {
		t.Errorf("got %+v", v)
	}
}

func TestTheSPIFFEValidatorHasABundleForEachTrustDomain(t *testing.T) {
	v := load(t, "secrets.json").Listeners[0].DefaultChain.TLS.Validation
	for _, td := range []string{"cluster.local", "example.org"} {
		if len(v.TrustDomains[spiffeid.RequireTrustDomainFromString(td)]) != 1 {
			t.Errorf("got no bundle for %s", td)
		}
	}
}

func TestEnvoysOwnListenerFiltersAreAdded(t *testing.T) {
	b := load(t, "sidecar.yaml")
	if f := b.Listeners[1].Filters; len(f) != 1 || f[0].OriginalDst == nil {
		t.Errorf("use_original_dst adds %+v, want original_dst", f)
	}
	if f := load(t, "secrets.json").Listeners[0].Filters; len(f) != 1 || f[0].TLSInspector == nil {
		t.Errorf("server_names add %+v, want tls_inspector", f)
	}
}

func TestTheLastPortIsInAPredicatesRange(t *testing.T) {
	p := load(t, "sidecar.yaml").Listeners[0].Filters[1].Disabled.Or
	if r := p[0]; !r.IsPortRange || r.PortFrom != 3306 || r.To != 3307 {
		t.Errorf("got %+v", r)
	}
	if r := p[1].Not.Not; r.Not == nil || !r.Not.IsPortRange || r.Not.PortFrom != 0 || r.Not.To != 65535 {
		t.Errorf("[65535, 65536) is %+v, want all but [0, 65535)", r)
	}
}

func TestRuntimeSetsLimitsAndNumbers(t *testing.T) {
	text := strings.Replace(base, "node:", `layered_runtime:
  layers:
  - {name: a, static_layer: {slow: 5, a: {b: [], numerator: 1}, envoy.resource_limits.listener.in.connection_limit: 7}}
  - {name: b, static_layer: {slow: 250, share: {numerator: 1, denominator: TEN_THOUSAND}}}
node:`, 1)
	if _, err := Bootstrap([]byte(text), Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := Bootstrap([]byte(strings.Replace(text, "          stat_prefix: s", `          access_log:
          - filter: {and_filter: {filters: [{duration_filter: {comparison: {op: GE, value: {default_value: 1, runtime_key: slow}}}}, {runtime_filter: {runtime_key: share}}]}}
            name: l
            typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog}
          stat_prefix: s`, 1)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	and := b.Listeners[0].Chains[0].Filters[0].TCPProxy.AccessLogs[0].Filter.And
	if *and[0].DurationGE != 250*time.Millisecond || *and[1].RuntimePPM != 100 || b.ListenerConnectionLimits["in"] != 7 {
		t.Errorf("got %v, %v, %v", and[0].DurationGE, *and[1].RuntimePPM, b.ListenerConnectionLimits)
	}
}

func TestConfigYAMLIsMergedOver(t *testing.T) {
	b, err := Bootstrap([]byte(base), Options{
		ConfigYAML:  "{node: {cluster: other, metadata: {k: v}}, static_resources: {clusters: [{name: second}]}}",
		ServiceNode: "flag", ServiceZone: "z",
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.Node.ID != "flag" || b.Node.Cluster != "other" || b.Node.Locality.Zone != "z" || len(b.Clusters) != 2 {
		t.Errorf("got %+v and %d clusters", b.Node, len(b.Clusters))
	}
	_, err = Bootstrap([]byte(base), Options{ConfigYAML: "node: {idd: x}"})
	if err == nil || err.Error() != "--config-yaml.node.idd: is not a field of envoy.config.core.v3.Node" {
		t.Errorf("got %v", err)
	}
}

func TestUnknownStaticFieldsCanBeWarnings(t *testing.T) {
	text := strings.Replace(base, "node:", "future: 1\nnode:", 1)
	b, err := Bootstrap([]byte(text), Options{AllowUnknownStatic: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"future: is not a field of envoy.config.bootstrap.v3.Bootstrap"}; !cmp.Equal(b.Warnings, want) {
		t.Errorf("got %q, want %q", b.Warnings, want)
	}
}

func TestUnknownFieldsOnTheWireAreRefused(t *testing.T) {
	l := &listenerv3.Listener{}
	b, err := os.ReadFile("testdata/lds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Response(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Resources[0].UnmarshalTo(l); err != nil {
		t.Fatal(err)
	}
	if _, err := Listener(l, Options{}); err != nil {
		t.Fatal(err)
	}
	match := &listenerv3.FilterChainMatch{}
	match.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	l.FilterChains[0].FilterChainMatch = match
	_, err = Listener(l, Options{})
	if err == nil || !strings.Contains(err.Error(), "filter_chains[0].filter_chain_match: has field number 999, which envoy.config.listener.v3.FilterChainMatch has not") {
		t.Errorf("got %v", err)
	}
	l.FilterChains[0].FilterChainMatch = nil
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo", Value: []byte{0xff}}}
	if _, err = Listener(l, Options{}); err == nil || !strings.HasPrefix(err.Error(), "filter_chains[0].filters[0].typed_config: not a envoy") {
		t.Errorf("got %v", err)
	}
}

func TestASecretsVersionChangesWithItsFiles(t *testing.T) {
	s := &tlsv3.Secret{}
	b, err := os.ReadFile("testdata/sds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Response(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Resources[1].UnmarshalTo(s); err != nil {
		t.Fatal(err)
	}
	version := func(content string) string {
		t.Helper()
		ca, err := os.ReadFile("testdata/ca.pem")
		if err != nil {
			t.Fatal(err)
		}
		secret, err := Secret(s, "test", "", Options{ReadFile: func(string) ([]byte, error) { return append([]byte(content), ca...), nil }})
		if err != nil {
			t.Fatal(err)
		}
		return secret.Version
	}
	if one, again, other := version(""), version(""), version("\n"); one != again || one == other || one == "" {
		t.Errorf("got versions %s, %s and, for another content, %s", one, again, other)
	}
	files, watched := SecretFiles(s)
	if !cmp.Equal(files, []string{"testdata/ca.pem"}) || watched != "testdata" {
		t.Errorf("got files %q, directory %q", files, watched)
	}
}

func TestTextsMadeToExhaustUsAreRefused(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		prev := "*" + string(c-1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat(prev+", ", 10), ", ") + "]\n"
	}
	for name, text := range map[string]string{
		"aliases of aliases": bomb,
		"an alias of itself": "a: &a [*a]",
		"deep JSON":          `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}",
		"deep YAML":          "a: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	} {
		if _, err := Bootstrap([]byte(text), Options{}); err == nil || !strings.Contains(err.Error(), "too big") {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
}

func TestAFileOfResourcesHoldsWhatItSays(t *testing.T) {
	for text, want := range map[string]string{
		`{resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, nam: x}]}`:                                                                      `resources[0].nam: is not a field of envoy.config.cluster.v3.Cluster`,
		`{type_url: type.googleapis.com/envoy.config.listener.v3.Listener, resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster}]}`:             `resources[0].@type: "type.googleapis.com/envoy.config.cluster.v3.Cluster" is not the response's type_url`,
		`{resources: [{"@type": type.googleapis.com/envoy.service.discovery.v3.Resource, ttl: 1s, resource: {"@type": type.googleapis.com/google.protobuf.Empty}}]}`: `resources[0].ttl: is not supported by outrider`,
		`{resource_errors: [{}]}`: `resource_errors: is not supported by outrider`,
		`{resources: [{}]}`:       `resources[0]: has no @type`,
	} {
		if _, err := Response([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestDynamicReferencesAreCheckedAgainstTheBootstrap(t *testing.T) {
	static := load(t, "sidecar.yaml")
	l := proto.Clone(static.Listeners[0].Source).(*listenerv3.Listener)
	if _, err := Listener(l, Options{Static: static}); err != nil {
		t.Error(err)
	}
	static.Clusters = nil
	_, err := Listener(l, Options{Static: static})
	if err == nil || !strings.Contains(err.Error(), `unknown cluster "sds-grpc"`) || strings.Contains(err.Error(), "BlackHole") {
		t.Errorf("got %v, want only the SDS cluster to be missed", err)
	}
}

func TestMessagesNestedWithoutEndAreRefused(t *testing.T) {
	static := load(t, "sidecar.yaml")
	l := proto.Clone(static.Listeners[0].Source).(*listenerv3.Listener)
	for range 5000 {
		l.ListenerFilters[1].FilterDisabled = &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: l.ListenerFilters[1].FilterDisabled}}
	}
	if _, err := Listener(l, Options{}); err == nil || !strings.HasSuffix(err.Error(), "is nested deeper than 100 messages") {
		t.Errorf("got %.300v", err)
	}
}

func TestAStaticSecretMustHoldWhatItIsUsedFor(t *testing.T) {
	text, err := os.ReadFile("testdata/secrets.json")
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string]string{
		{`[{"name": "own"}]`, `[{"name": "roots"}]`}: `tls_certificate_sds_secret_configs[0].name: "roots" is a secret with validation_context, not with tls_certificate`,
		{`"validation_context_sds_secret_config": {"name": "roots"}`, `"validation_context_sds_secret_config": {"name": "tickets"}`}:                             `validation_context_sds_secret_config.name: "tickets" is a secret with session_ticket_keys, not with validation_context`,
		{`"trusted_ca": {"filename": "testdata/ca.pem"}, "trust_chain_verification"`, `"match_subject_alt_names": [{"exact": "x"}], "trust_chain_verification"`}: `validation_context_sds_secret_config: matches subject alternative names without trusted_ca`,
	} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if _, err := Bootstrap([]byte(changed), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestOverlapsAreFoundInTenThousandChains(t *testing.T) {
	var chains []*config.FilterChain
	for i := range 10_000 {
		chains = append(chains, &config.FilterChain{Match: config.FilterChainMatch{DestinationPort: uint16(i), ServerNames: []string{"a", "b"}}})
	}
	d := newDecoder(Options{})
	d.overlaps(chains, at{d: d})
	if len(d.found) != 0 {
		t.Errorf("got %v", d.found)
	}
	chains = append(chains, &config.FilterChain{Match: config.FilterChainMatch{DestinationPort: 9999, ServerNames: []string{"c", "b"}}})
	if d.overlaps(chains, at{d: d}); len(d.found) != 1 {
		t.Errorf("got %v, want one overlap", d.found)
	}
}
