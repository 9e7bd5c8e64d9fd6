package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
)

// decoded is the only listener of an LDS file.
func (r *running) decoded(text string) *config.Listener {
	r.t.Helper()
	all, _, err := resources([]byte(text), func() *listenerv3.Listener { return &listenerv3.Listener{} }, r.discovery.decoding(), decode.Listener)
	if err != nil || len(all) != 1 {
		r.t.Fatalf("%d listeners, %v", len(all), err)
	}
	return all[0]
}

// apply makes the only listener of text the newest version.
func (r *running) apply(text string) *config.Listener {
	r.t.Helper()
	cfg := r.decoded(text)
	if err := r.discovery.applyListener(cfg, "1"); err != nil {
		r.t.Fatal(err)
	}
	return cfg
}

// secretsOnDemand publishes a secret when the test says so.
type secretsOnDemand struct {
	mu      sync.Mutex
	handles map[string]*certs.Handle // guarded by mu
}

func (s *secretsOnDemand) feed(ctx context.Context, h *certs.Handle) {
	s.mu.Lock()
	s.handles[h.Ref().Name] = h
	s.mu.Unlock()
	<-ctx.Done()
}

func (s *secretsOnDemand) asked(name string) *certs.Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[name]
}

// Version 2 waits for a secret, which comes while version 3 is applied. Whoever
// is first, version 3 is what stays, and each of its chains serves.
func TestAnUpdateWhileTheOneBeforeBecomesReady(t *testing.T) {
	for name, option := range map[string]string{"in place": "", "rebinding": "  tcp_backlog_size: 99\n"} {
		t.Run(name, func(t *testing.T) {
			secrets := &secretsOnDemand{handles: map[string]*certs.Handle{}}
			fill := make([]string, 100)
			for i := range fill {
				fill[i] = chain(fmt.Sprintf("f%d", i), fmt.Sprintf("127.1.0.%d", i+1))
			}
			with := func(chains ...string) string { return listenerOf(append(chains, fill...)...) }
			a := chain("a", "127.0.0.1")
			r := run(t, with(a), Options{DrainTime: time.Millisecond, Secrets: secrets.feed})
			r.eventually("the first version", func() bool { return echoes(r.dial("127.0.0.1")) })
			l := r.listeners.get("l")
			for n := range 100 {
				secret := fmt.Sprintf("secret-%d", n)
				r.apply(with(a, chain(fmt.Sprint("one-", n), "127.0.0.3")))
				waits := with(strings.ReplaceAll(tlsChain, "name: default", "name: "+secret))
				r.apply(strings.Replace(waits, "  name: l\n", "  name: l\n"+option, 1))
				if l.warmingSnapshot() == nil {
					t.Fatal("version 2 does not wait for its secret")
				}
				r.eventually("the demand for the secret", func() bool { return secrets.asked(secret) != nil })
				last := r.decoded(with(a, chain(fmt.Sprint("three-", n), "127.0.0.3")))
				var published sync.WaitGroup
				published.Go(func() {
					time.Sleep(rand.N(1500 * time.Microsecond))
					secrets.asked(secret).Publish(&certs.Secret{Name: secret, Version: "1"})
				})
				if err := r.discovery.applyListener(last, "3"); err != nil {
					t.Fatal(err)
				}
				published.Wait()
				time.Sleep(10 * time.Millisecond)
				if l.current().cfg != last {
					t.Fatalf("round %d: version 2 has taken the place of version 3", n)
				}
				if !echoes(r.dial("127.0.0.1")) {
					t.Fatalf("round %d: a chain of the current version refuses every connection", n)
				}
			}
		})
	}
}

// The chains of an update that come before the one with the mistake are made,
// and with them what they follow.
func TestARefusedUpdateLeavesNothing(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	r.eventually("the first version", func() bool { return echoes(r.dial("127.0.0.1")) })
	put(t, r.dir+"/rds.yaml", `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: "80"
  virtual_hosts: [{name: a, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]
`)
	follows := `
  - name: http
    filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.5, prefix_len: 32}]}
    filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: h
        rds: {route_config_name: "80", config_source: {path_config_source: {path: ` + r.dir + `/rds.yaml}, resource_api_version: V3}}
        http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]`
	bad := `
  - name: bad
    filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.6, prefix_len: 32}]}
    filters:
    - name: tcp
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: p
        cluster: sds
        access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: ` + r.dir + `/none/log}}]`
	followed := func() int {
		r.discovery.mu.Lock()
		defer r.discovery.mu.Unlock()
		return len(r.discovery.fileRouted)
	}
	r.apply(listenerOf(chain("a", "127.0.0.1"), follows))
	if followed() != 1 {
		t.Fatalf("%d route configurations are followed for a listener with one", followed())
	}
	r.apply(listenerOf(chain("a", "127.0.0.1")))
	r.eventually("the end of the first chain's subscription", func() bool { return followed() == 0 })
	if err := r.discovery.applyListener(r.decoded(listenerOf(chain("a", "127.0.0.1"), follows, bad)), "2"); err == nil {
		t.Fatal("a log in a directory that is not there is taken")
	}
	if followed() != 0 {
		t.Error("a route configuration is followed for a listener that was refused")
	}
	if !echoes(r.dial("127.0.0.1")) {
		t.Error("the version before the refused one does not serve")
	}
}
