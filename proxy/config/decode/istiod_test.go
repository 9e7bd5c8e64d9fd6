package decode

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/proxy/config"
)

// pushes are what an istiod of Istio 1.30 sent to two workloads, with and
// without authorization policies, in both protocols: testdata/istiod.
func pushes(tb testing.TB) map[string][]*anypb.Any {
	tb.Helper()
	files, err := filepath.Glob("testdata/istiod/*.pb")
	if err != nil || len(files) != 32 {
		tb.Fatalf("%d files, want 32: %v", len(files), err)
	}
	out := map[string][]*anypb.Any{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".pb")
		if !strings.Contains(name, "-delta") {
			response := &discoveryv3.DiscoveryResponse{}
			if err := proto.Unmarshal(data, response); err != nil {
				tb.Fatal(err)
			}
			out[name] = response.GetResources()
			continue
		}
		response := &discoveryv3.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(data, response); err != nil {
			tb.Fatal(err)
		}
		for _, r := range response.GetResources() {
			out[name] = append(out[name], r.GetResource())
		}
	}
	return out
}

// decodeAny decodes one resource of any of the four kinds.
func decodeAny(tb testing.TB, a *anypb.Any, opts Options) (any, error) {
	tb.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		tb.Fatal(err)
	}
	switch r := m.(type) {
	case *listenerv3.Listener:
		return Listener(r, opts)
	case *clusterv3.Cluster:
		return Cluster(r, opts)
	case *endpointv3.ClusterLoadAssignment:
		return Assignment(r, opts)
	case *routev3.RouteConfiguration:
		return RouteConfiguration(r, opts)
	}
	tb.Fatalf("%s is of no kind that is decoded", a.GetTypeUrl())
	return nil, nil
}

func TestWhatIstiodPushesIsTaken(t *testing.T) {
	static := &config.Bootstrap{Clusters: []*config.Cluster{{Name: "sds-grpc"}, {Name: "xds-grpc"}}, ADS: &certs.Source{Cluster: "xds-grpc"}}
	for name, resources := range pushes(t) {
		if len(resources) == 0 {
			t.Errorf("%s is empty", name)
		}
		for i, r := range resources {
			if _, err := decodeAny(t, r, Options{Static: static}); err != nil {
				t.Errorf("%s, resource %d:\n%v", name, i, err)
			}
		}
	}
}

// managersOf are the connection managers that a push's listener has, by filter
// chain.
func managersOf(t *testing.T, push, listener string) map[string]*config.HTTPConnectionManager {
	t.Helper()
	out := map[string]*config.HTTPConnectionManager{}
	for _, r := range pushes(t)[push] {
		decoded, err := decodeAny(t, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := decoded.(*config.Listener)
		if l.Name != listener {
			continue
		}
		for _, c := range append(l.Chains, l.DefaultChain) {
			if c == nil {
				continue
			}
			if m := c.Filters[len(c.Filters)-1].HTTP; m != nil {
				out[c.Name] = m
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no connection manager in %s", push, listener)
	}
	return out
}

func configsOf(filters []*config.HTTPFilter) []any {
	var out []any
	for _, f := range filters {
		out = append(out, f.Config)
	}
	return out
}

func TestIstiosInboundIsDecoded(t *testing.T) {
	for name, m := range managersOf(t, "permissive-uc-lds", "virtualInbound") {
		if m.ForwardClientCert != config.XFCCAppendForward || m.SetClientCert != (config.ClientCertDetails{Subject: true, DNS: true, URI: true}) {
			t.Errorf("%s: x-forwarded-client-cert: %v of %v, want append of subject, DNS and URI", name, m.ForwardClientCert, m.SetClientCert)
		}
		if m.ServerName != "istio-envoy" || !m.NormalizePath || m.StreamIdleTimeout != 0 || m.UseRemoteAddress || !m.Proxy100Continue {
			t.Errorf("%s: %+v", name, m)
		}
		if len(m.Upgrades) != 1 || m.Upgrades[0].Type != "websocket" || !m.Upgrades[0].Enabled {
			t.Errorf("%s: upgrades %+v, want websocket", name, m.Upgrades)
		}
		same(t, name, configsOf(m.Filters), []any{
			&config.IstioHTTPExchange{
				DownstreamDiscovery:   []config.IstioExchangeMethod{{Name: "istio_headers"}, {Name: "workload_discovery"}},
				DownstreamPropagation: []config.IstioExchangeMethod{{Name: "istio_headers"}},
			},
			&config.GRPCStats{EmitFilterState: true},
			&config.HTTPFault{},
			&config.HTTPCORS{},
			&config.IstioStats{
				Reporter: config.IstioDestination, DisableHostHeaderFallback: true, ReportDuration: 5 * time.Second, GracefulDeletion: 5 * time.Minute,
			},
			&config.HTTPRouter{},
		})
		if m.Routes == nil || m.Routes.ValidateClusters || len(m.Routes.VirtualHosts) != 1 {
			t.Errorf("%s: routes %+v, want one virtual host and clusters that are not demanded", name, m.Routes)
			continue
		}
		action := m.Routes.VirtualHosts[0].Routes[0].Action
		same(t, name, action.MaxStream, &config.MaxStreamDuration{Max: ptr[time.Duration](0), GRPCMax: ptr[time.Duration](0)})
		if action.Timeout != 0 {
			t.Errorf("%s: timeout %s, want none", name, action.Timeout)
		}
		if r := action.Retry; r == nil != (name == "0.0.0.0_50051") || r != nil && (!slices.Equal(r.On, []string{"reset-before-request"}) || *r.Retries != 2) {
			t.Errorf("%s: retry policy %+v", name, r)
		}
	}
}

func TestIstiosOutboundIsDecoded(t *testing.T) {
	for name, m := range managersOf(t, "permissive-user-web-lds", "0.0.0.0_80") {
		same(t, name, m.RDS, &config.RDS{Name: "80", Source: &certs.Source{ADS: true}})
		same(t, name, m.Filters[2].Config, &config.IstioALPN{Override: map[config.IstioALPNProtocol][]string{
			config.IstioHTTP10: {"istio-http/1.0", "istio", "http/1.0"},
			config.IstioHTTP11: {"istio-http/1.1", "istio", "http/1.1"},
			config.IstioHTTP2:  {"istio-h2", "istio", "h2"},
		}})
		if stats := m.Filters[5].Config.(*config.IstioStats); stats.Reporter != config.IstioSource {
			t.Errorf("%s: the stats are the server's", name)
		}
	}
}

func TestIstiosAuthorizationOfRequestsIsDecoded(t *testing.T) {
	for name, m := range managersOf(t, "authz-uc-lds", "virtualInbound") {
		var rules []*config.RBACRules
		shadow := 0
		for _, f := range m.Filters {
			if rbac, ok := f.Config.(*config.HTTPRBAC); ok {
				rules = append(rules, rbac.RBAC.Rules)
				if rbac.RBAC.Shadow != nil {
					shadow++
				}
			}
		}
		if len(rules) < 2 || shadow == 0 {
			t.Errorf("%s: %d rules and %d shadow rules", name, len(rules), shadow)
			continue
		}
		headers, paths, templates := 0, 0, 0
		for _, r := range rules {
			countCriteria(r, &headers, &paths, &templates)
		}
		if headers == 0 || paths == 0 || templates == 0 {
			t.Errorf("%s: %d headers, %d paths and %d templates, want some of each", name, headers, paths, templates)
		}
	}
}

func countCriteria(r *config.RBACRules, headers, paths, templates *int) {
	if r == nil {
		return
	}
	var walk func([]*config.Permission)
	walk = func(list []*config.Permission) {
		for _, p := range list {
			switch {
			case p.Header != nil:
				*headers++
			case p.URLPath != nil:
				*paths++
			case p.Template != "":
				*templates++
			}
			walk(p.And)
			walk(p.Or)
		}
	}
	for _, p := range r.Policies {
		walk(p.Permissions)
	}
}

func TestIstiosClustersSpeakWhatTheClientSpeaks(t *testing.T) {
	modes := map[config.UpstreamHTTPMode]int{}
	for _, r := range pushes(t)["permissive-user-web-cds"] {
		decoded, err := decodeAny(t, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		modes[decoded.(*config.Cluster).HTTP.Mode]++
	}
	want := map[config.UpstreamHTTPMode]int{config.UpstreamHTTP1: 8, config.UpstreamHTTP2: 1, config.UpstreamFollow: 3}
	same(t, "modes", modes, want)
}

func TestIstiosRoutesAreDecoded(t *testing.T) {
	for _, r := range pushes(t)["permissive-user-web-rds"] {
		decoded, err := decodeAny(t, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		config := decoded.(*config.RouteConfig)
		if config.ValidateClusters || !config.IgnorePortInHost || config.Digest == "" || len(config.VirtualHosts) == 0 {
			t.Errorf("%+v", config)
		}
		retry := config.VirtualHosts[0].Routes[0].Action.Retry
		if retry != nil && (!retry.PreviousHosts || retry.HostAttempts != 5 || len(retry.On) != 5) {
			t.Errorf("%s: retry policy %+v", config.Name, retry)
		}
	}
}
