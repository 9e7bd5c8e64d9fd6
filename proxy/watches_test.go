package proxy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// routeTo is a route configuration that answers for one host.
func routeTo(t *testing.T, name, host string) *routev3.RouteConfiguration {
	t.Helper()
	out := &routev3.RouteConfiguration{}
	text := `{"name":"` + name + `","virtual_hosts":[{"name":"v","domains":["` + host + `"],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200}}]}]}`
	if err := protojson.Unmarshal([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// hosts are the domains of the versions that came.
type hosts struct {
	mu  sync.Mutex
	all []string
}

func (h *hosts) update(c *config.RouteConfig) error {
	host := c.VirtualHosts[0].Domains[0]
	if strings.HasPrefix(host, "refused") {
		return errors.New("no such host")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, host)
	return nil
}

func (h *hosts) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.all)
}

func needsOf(r *running) *needs { return &needs{server: r.Server, chain: &config.FilterChain{}} }

func TestRoutesComeByAStream(t *testing.T) {
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	push := func(all ...*routev3.RouteConfiguration) {
		plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: nil, xds.RouteType: listOf(all...)})
	}
	push(routeTo(t, "80", "a"))
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{})
	n, got := needsOf(r), &hosts{}
	rds := &config.RDS{Name: "80", Source: &certs.Source{ADS: true}}
	cancel, err := n.routes(rds, got.update)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the first version", func() bool { return got.String() == "[a]" })
	push(routeTo(t, "80", "refused"))
	r.eventually("its refusal", func() bool { return len(plane.Nacks()) == 1 && strings.Contains(plane.Nacks()[0], "80: no such host") })
	push(routeTo(t, "80", "b"))
	r.eventually("the next version", func() bool { return got.String() == "[a b]" })
	if dump := r.get("/config_dump?resource=dynamic_route_configs"); !strings.Contains(dump, `"b"`) {
		t.Errorf("/config_dump lacks the routes:\n%s", dump)
	}
	late := &hosts{}
	if _, err := needsOf(r).routes(rds, late.update); err != nil || late.String() != "[b]" {
		t.Errorf("who comes late has %s, %v, want [b] at once", late, err)
	}
	cancel()
	push(routeTo(t, "80", "c"))
	r.eventually("a version for who is left", func() bool { return late.String() == "[b c]" })
	if got.String() != "[a b]" {
		t.Errorf("who has cancelled was told %s", got)
	}
}

func TestRoutesComeFromAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rds.json")
	write := func(c *routev3.RouteConfiguration) {
		text, err := protojson.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		put(t, file, `{"resources":[{"@type":"`+xds.RouteType+`",`+string(text[1:])+`]}`)
	}
	write(routeTo(t, "80", "a"))
	r := runOver(t, `{node: {id: test, cluster: test}, admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}}`, Options{})
	got := &hosts{}
	cancel, err := needsOf(r).routes(&config.RDS{Name: "80", Source: &certs.Source{Path: file}}, got.update)
	if err != nil || got.String() != "[a]" {
		t.Fatalf("at the beginning: %s, %v, want [a]", got, err)
	}
	write(routeTo(t, "80", "b"))
	r.eventually("the change", func() bool { return got.String() == "[a b]" })
	r.eventually("the routes in the dump", func() bool {
		all := r.adminRoutes()
		return len(all) == 1 && all[0].Name == "80" && all[0].Dynamic && strings.Contains(protojson.Format(all[0].Source), `"b"`)
	})
	if _, err := needsOf(r).routes(&config.RDS{Name: "81", Source: &certs.Source{Path: file}}, got.update); err == nil || !strings.Contains(err.Error(), `there is no route configuration "81"`) {
		t.Errorf("another name: %v", err)
	}
	if cancel(); len(r.adminRoutes()) != 0 {
		t.Error("routes that nobody wants are in the dump")
	}
}

func TestAChainWaitsForItsRoutes(t *testing.T) {
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: nil})
	r := runOver(t, bootOver(plane.Address(), "GRPC", true), Options{})
	n := needsOf(r)
	if _, err := n.routes(&config.RDS{Name: "80", Source: &certs.Source{ADS: true}}, (&hosts{}).update); err != nil {
		t.Fatal(err)
	}
	ctx, cut := context.WithCancelCause(t.Context())
	ch := &liveChain{needs: n.all, ctx: ctx, cut: cut}
	if err := ch.missingNeeds(); err == nil || !strings.Contains(err.Error(), `route configuration "80" has not come`) {
		t.Errorf("missing: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := ch.waitNeeds(short); err == nil {
		t.Error("an update with a chain whose routes are missing is ready")
	}
	waiting := make(chan error, 1)
	go func() { waiting <- ch.awaitNeeds() }()
	plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: nil, xds.RouteType: listOf(routeTo(t, "80", "a"))})
	select {
	case err := <-waiting:
		if err != nil {
			t.Errorf("the connection: %v", err)
		}
	case <-time.After(patience):
		t.Error("the connection waits though the routes have come")
	}
	if err := ch.waitNeeds(t.Context()); err != nil || ch.missingNeeds() != nil {
		t.Errorf("with routes: %v, %v", err, ch.missingNeeds())
	}
	m := needsOf(r)
	if _, err := m.routes(&config.RDS{Name: "81", Source: &certs.Source{ADS: true}}, (&hosts{}).update); err != nil {
		t.Fatal(err)
	}
	gone := &liveChain{needs: m.all, ctx: ctx, cut: cut}
	go func() { waiting <- gone.awaitNeeds() }()
	cut(errCut)
	var end *flow.EndError
	if err := <-waiting; !errors.As(err, &end) || !errors.Is(err, errCut) {
		t.Errorf("a connection of a chain that goes: %v, want its end", err)
	}
}
