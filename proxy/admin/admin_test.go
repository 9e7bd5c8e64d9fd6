package admin

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// calls records what the interface was told to do.
type calls []string

// options show a server with one cluster and one listener.
func options(did *calls) Options {
	level := &slog.LevelVar{}
	level.Set(slog.LevelWarn)
	o := Options{
		Stats: stats.New(), Version: "1.2.3", Start: time.Now(), LogLevel: level,
		Bootstrap: &config.Bootstrap{
			Source:  &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "n1"}, Admin: &bootstrapv3.Admin{}},
			Node:    config.Node{Source: &corev3.Node{Id: "n1", UserAgentName: "outrider"}},
			Runtime: []config.RuntimeLayer{{Name: "a", Values: map[string]string{"x": "1", "y": "2"}}, {Name: "b", Values: map[string]string{"x": "3"}}},
		},
		State: func() string { return "LIVE" }, Refresh: func() {},
		Listeners: func() []Listener { return nil }, Clusters: func() []Cluster { return []Cluster{clusterST()} },
		Secrets: func() []*certs.Handle { return nil }, Inline: func() []*certs.Handle { return nil },
	}
	if did != nil {
		do := func(what string) { *did = append(*did, what) }
		o.Quit = func() { do("quit") }
		o.Health = func(ok bool) { do(map[bool]string{true: "ok", false: "fail"}[ok]) }
		o.ReopenLogs = func() error { do("reopen"); return nil }
		o.Drain = func(d DrainOptions) {
			for what, set := range map[string]bool{"graceful": d.Graceful, "inboundonly": d.InboundOnly, "skip_exit": d.SkipExit} {
				if set {
					do(what)
				}
			}
			do("drain")
			slices.Sort(*did)
		}
	}
	return o
}

// clusterST is the cluster of testdata.
func clusterST() Cluster {
	here := config.Locality{Region: "r1", Zone: "z1", SubZone: "s1"}
	return Cluster{
		Name: "st", ObservabilityName: "st_alt", Source: &clusterv3.Cluster{Name: "st"}, Outlier: true,
		SuccessRateAverage: -1, SuccessRateThreshold: -1, LocalSuccessRateAverage: -1, LocalRateThreshold: -1,
		Thresholds: [2]config.Thresholds{
			{MaxConnections: 7, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3},
			{MaxConnections: 9, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3},
		},
		Hosts: []Host{
			{
				Address: "127.0.0.1:19920", Hostname: "hh", Locality: here, LocalityWeight: 3, Weight: 5,
				HealthFlags: "healthy", EDSHealth: "HEALTHY", CxTotal: 10, RqTotal: 9, SuccessRate: -1, LocalOriginSuccessRate: -1,
				Metadata: map[string]*structpb.Struct{
					"envoy.transport_socket_match": {Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}},
					"istio":                        {Fields: map[string]*structpb.Value{"workload": structpb.NewStringValue("w;d")}},
				},
			},
			{
				Address: "127.0.0.1:19921", Locality: here, LocalityWeight: 3, Weight: 1, HealthFlags: "/failed_eds_health",
				EDSHealth: "UNHEALTHY", SuccessRate: -1, LocalOriginSuccessRate: -1,
			},
			{
				Address: "/run/up.sock", Weight: 1, Priority: 1, HealthFlags: "/degraded_eds_health", EDSHealth: "DEGRADED",
				CxConnectFail: 3, CxTotal: 3, SuccessRate: -1, LocalOriginSuccessRate: -1,
			},
		},
	}
}

func ask(t *testing.T, o Options, method, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	New(o).ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The goldens are what Envoy 1.40 answered for the same configuration. Its maps
// have no order: theirs are in ours.
func TestAnswersAreEnvoys(t *testing.T) {
	var dump adminv3.ConfigDump
	if err := protojson.Unmarshal([]byte(golden(t, "dynamic_listeners.json")), &dump); err != nil {
		t.Fatal(err)
	}
	o := options(nil)
	o.Listeners = func() []Listener { return listenersOf(t, &dump) }
	cases := []struct{ target, file string }{
		{"/config_dump?resource=dynamic_listeners", "dynamic_listeners.json"},
		{"/config_dump?resource=static_endpoint_configs&include_eds", "static_endpoints.json"},
		{"/clusters?format=json", "clusters.json"},
		{"/clusters", "clusters.txt"},
	}
	for _, c := range cases {
		t.Run(c.target, func(t *testing.T) {
			w := ask(t, o, "GET", c.target)
			if diff := cmp.Diff(golden(t, c.file), w.Body.String()); diff != "" {
				t.Errorf("Envoy's and ours:\n%s", diff)
			}
		})
	}
}

// listenersOf are the facts behind a dump.
func listenersOf(t *testing.T, dump *adminv3.ConfigDump) []Listener {
	var out []Listener
	for _, packed := range dump.GetConfigs() {
		one := &adminv3.ListenersConfigDump_DynamicListener{}
		if err := packed.UnmarshalTo(one); err != nil {
			t.Fatal(err)
		}
		l := Listener{Name: one.GetName(), Dynamic: true}
		if s := one.GetActiveState(); s != nil {
			source, err := s.GetListener().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			l.Active = &Version{Info: s.GetVersionInfo(), Updated: s.GetLastUpdated().AsTime().Add(17 * time.Microsecond), Source: source}
		}
		if s := one.GetErrorState(); s != nil {
			source, err := s.GetFailedConfiguration().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			l.Refused = &Refused{When: s.GetLastUpdateAttempt().AsTime(), Details: s.GetDetails(), Source: source}
		}
		out = append(out, l)
	}
	return out
}

func TestCertificatesAreEnvoys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Date(2026, 11, 23, 13, 38, 27, 0, time.UTC)
		time.Sleep(time.Until(began.Add(time.Hour)))
		serial := func(text string) *big.Int { n, _ := new(big.Int).SetString(text, 16); return n }
		uri, err := url.Parse("spiffe://cluster.local/ns/dev/sa/default")
		if err != nil {
			t.Fatal(err)
		}
		leaf := &x509.Certificate{
			SerialNumber: serial("616ce9a85594e0ff909327f0712281e637a81de5"), NotBefore: began, NotAfter: began.AddDate(1, 0, 0),
			DNSNames: []string{"a.shop"}, URIs: []*url.URL{uri}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, EmailAddresses: []string{"x@y.z"},
		}
		pair := &certs.KeyPair{CertPath: "/etc/s.pem"}
		pair.TLS.Leaf = leaf
		root := &x509.Certificate{SerialNumber: serial("2ed9424b96f547590214314b63a6c5b50561951f"), NotBefore: began, NotAfter: began.AddDate(0, 0, 3650)}
		handle := certs.NewHandle(certs.Ref{Name: "both"})
		handle.Publish(&certs.Secret{KeyPair: pair, Validation: &certs.Validation{Roots: []*x509.Certificate{root}, RootsPath: "/etc/ca.pem"}})
		missing := certs.NewHandle(certs.Ref{Name: "missing"})
		o := options(nil)
		o.Secrets = func() []*certs.Handle { return []*certs.Handle{handle, missing} }
		if diff := cmp.Diff(golden(t, "certs.json"), ask(t, o, "GET", "/certs").Body.String()); diff != "" {
			t.Errorf("Envoy's and ours:\n%s", diff)
		}
	})
}

func TestOnlyPostChangesSomething(t *testing.T) {
	cases := []struct {
		target string
		want   calls
	}{
		{"/quitquitquit", calls{"quit"}},
		{"/healthcheck/fail", calls{"fail"}},
		{"/healthcheck/ok", calls{"ok"}},
		{"/reopen_logs", calls{"reopen"}},
		{"/drain_listeners", calls{"drain"}},
		{"/drain_listeners?graceful&inboundonly", calls{"drain", "graceful", "inboundonly"}},
		{"/drain_listeners?skip_exit", calls{"drain", "skip_exit"}},
		{"/reset_counters", nil},
		{"/logging?level=error", nil},
		{"/runtime_modify?a=b", nil},
	}
	for _, c := range cases {
		t.Run(c.target, func(t *testing.T) {
			var did calls
			o := options(&did)
			o.Stats.Scope("a").Counter("b").Inc()
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
				w := ask(t, o, method, c.target)
				if want := "Method " + method + " not allowed, POST required."; w.Code != 405 || w.Body.String() != want {
					t.Errorf("%s: %d %q, want 405 %q", method, w.Code, w.Body, want)
				}
			}
			if did != nil || o.LogLevel.Level() != slog.LevelWarn || o.Stats.Scope("a").Counter("b").Value() != 1 {
				t.Errorf("%v happened without POST", did)
			}
			w := ask(t, o, "POST", c.target)
			if !slices.Equal(did, c.want) {
				t.Errorf("%v happened, want %v", did, c.want)
			}
			if c.want != nil && (w.Code != 200 || w.Body.String() != "OK\n") {
				t.Errorf("%d %q, want 200 OK", w.Code, w.Body)
			}
			if reset := o.Stats.Scope("a").Counter("b").Value() == 0; reset != (c.target == "/reset_counters") {
				t.Errorf("counters are reset: %v", reset)
			}
		})
	}
}

func TestStatesOtherThanLiveAreNotReady(t *testing.T) {
	for _, state := range []string{"DRAINING", "INITIALIZING", "PRE_INITIALIZING"} {
		o := options(nil)
		o.State = func() string { return state }
		if w := ask(t, o, "GET", "/ready"); w.Code != 503 || w.Body.String() != state+"\n" {
			t.Errorf("%d %q, want 503 %s", w.Code, w.Body, state)
		}
		var info struct{ State string }
		if err := json.Unmarshal(ask(t, o, "GET", "/server_info").Body.Bytes(), &info); err != nil || info.State != state {
			t.Errorf("state %q, %v, want %q", info.State, err, state)
		}
	}
}

func TestReopenSaysWhatFailed(t *testing.T) {
	o := options(nil)
	o.ReopenLogs = func() error { return errors.New("access.log: no space") }
	if w := ask(t, o, "POST", "/reopen_logs"); w.Code != 500 || w.Body.String() != "access.log: no space" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestListenersShowEveryAddress(t *testing.T) {
	o := options(nil)
	o.Listeners = func() []Listener {
		return []Listener{
			{Name: "a", Addresses: []string{"127.0.0.1:1", "[::1]:2"}, Active: &Version{}},
			{Name: "refused", Dynamic: true, Refused: &Refused{Details: "no"}},
			{Name: "b", Addresses: []string{"/run/sock"}, Active: &Version{}},
		}
	}
	if got, want := ask(t, o, "GET", "/listeners").Body.String(), "a::127.0.0.1:1\na::[::1]:2\nb::/run/sock\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var out adminv3.Listeners
	if err := protojson.Unmarshal(ask(t, o, "GET", "/listeners?format=json").Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if s := out.GetListenerStatuses(); len(s) != 2 || s[0].GetAdditionalLocalAddresses()[0].GetSocketAddress().GetAddress() != "::1" || s[1].GetLocalAddress().GetPipe().GetPath() != "/run/sock" {
		t.Errorf("got %v", s)
	}
}

func TestClustersThatAreNotInUseAreOnlyDumped(t *testing.T) {
	o := options(nil)
	o.ClustersVersion = func() string { return "v9" }
	o.Clusters = func() []Cluster {
		warming, refused, active := clusterST(), Cluster{Name: "bad", Dynamic: true, Refused: &Refused{Details: "no such policy", Version: "v8"}}, clusterST()
		warming.Dynamic, warming.Warming, warming.Version = true, true, "v9"
		active.Dynamic, active.Version = true, "v7"
		return []Cluster{active, warming, refused}
	}
	if got := ask(t, o, "GET", "/clusters").Body.String(); strings.Count(got, "observability_name") != 1 {
		t.Errorf("got %s", got)
	}
	var dump adminv3.ConfigDump
	if err := protojson.Unmarshal(ask(t, o, "GET", "/config_dump?include_eds").Body.Bytes(), &dump); err != nil {
		t.Fatal(err)
	}
	var clusters adminv3.ClustersConfigDump
	if err := dump.GetConfigs()[1].UnmarshalTo(&clusters); err != nil {
		t.Fatal(err)
	}
	active, warming := clusters.GetDynamicActiveClusters(), clusters.GetDynamicWarmingClusters()
	if clusters.GetVersionInfo() != "v9" || len(active) != 1 || len(warming) != 2 || active[0].GetVersionInfo() != "v7" ||
		warming[1].GetErrorState().GetDetails() != "no such policy" || warming[1].GetErrorState().GetVersionInfo() != "v8" {
		t.Errorf("got %v", &clusters)
	}
	var endpoints adminv3.EndpointsConfigDump
	if err := dump.GetConfigs()[2].UnmarshalTo(&endpoints); err != nil {
		t.Fatal(err)
	}
	if len(endpoints.GetDynamicEndpointConfigs()) != 1 || len(endpoints.GetStaticEndpointConfigs()) != 0 {
		t.Errorf("got %v", &endpoints)
	}
}

func TestFurtherHandlersAreServedAndListed(t *testing.T) {
	o := options(nil)
	o.Handlers = []Handler{{Path: "/explain", Help: "why <so>", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w, 200, "because") })}}
	if got := ask(t, o, "GET", "/explain?x").Body.String(); got != "because" {
		t.Errorf("got %q", got)
	}
	if got := ask(t, o, "GET", "/help").Body.String(); !strings.Contains(got, "  /explain: why <so>\n") {
		t.Errorf("got %q", got)
	}
	if got := ask(t, o, "GET", "/").Body.String(); !strings.Contains(got, "why &lt;so&gt;") {
		t.Errorf("got %q", got)
	}
}
