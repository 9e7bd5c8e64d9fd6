package route_test

import (
	"fmt"
	"testing"

	"outrider/proxy/config"
)

// mesh is a configuration as a control plane writes it: each virtual host has
// some domains, and the route that is looked for is the last.
func mesh(hosts, routes int) *config.RouteConfig {
	cfg := &config.RouteConfig{Name: "mesh"}
	for i := range hosts {
		name := fmt.Sprintf("service-%d", i)
		v := &config.VirtualHost{Name: name, Domains: []string{
			name + ".ns.svc.cluster.local", name + ".ns.svc.cluster.local:80", name + ".ns", "*." + name + ".wild", fmt.Sprintf("10.0.%d.%d", i/256, i%256),
		}}
		for j := range routes {
			v.Routes = append(v.Routes, to(config.RouteMatch{
				Prefix: ptr(fmt.Sprintf("/api/v%d/", j)), Headers: []config.HeaderMatcher{{Name: "x-user", String: exact("me")}},
			}, name))
		}
		cfg.VirtualHosts = append(cfg.VirtualHosts, v)
	}
	return cfg
}

func BenchmarkFind(b *testing.B) {
	for _, size := range [][2]int{{10, 10}, {1000, 10}, {10, 100}, {1000, 100}} {
		table := compile(b, mesh(size[0], size[1]))
		for _, host := range []string{"host: service-7.ns.svc.cluster.local", "host: a.b.service-7.wild"} {
			r := request(fmt.Sprintf("/api/v%d/things?q=1", size[1]-1), host, "user-agent: bench", "x-user: me")
			b.Run(fmt.Sprintf("hosts=%d/routes=%d/%s", size[0], size[1], host[6:]), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := table.Find(r); !ok {
						b.Fatal("no route")
					}
				}
			})
		}
	}
}

func TestFindAllocatesItsResultAlone(t *testing.T) {
	table := compile(t, mesh(100, 100))
	r := request("/api/v99/things?q=1", "host: a.b.service-7.wild", "x-user: me")
	if n := testing.AllocsPerRun(100, func() { table.Find(r) }); n > 1 {
		t.Errorf("Find costs %v allocations, want the Match alone", n)
	}
	r = request("/api/v99/things", "host: service-7.ns", "x-user: other")
	if n := testing.AllocsPerRun(100, func() { table.Find(r) }); n != 0 {
		t.Errorf("Find that finds nothing costs %v allocations, want none", n)
	}
}
