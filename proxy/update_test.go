package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"outrider/proxy/config/decode"
)

// clusterTo is a cluster with one endpoint.
func clusterTo(t *testing.T, name, addr string) *clusterv3.Cluster {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &clusterv3.Cluster{}
	text := `{"name":"` + name + `","type":"STATIC","connect_timeout":"1s","load_assignment":{"cluster_name":"` + name +
		`","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"` + host + `","port_value":` + port + `}}}}]}]}}`
	if err := protojson.Unmarshal([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// proxyTo is a listener that sends everything to a cluster.
func proxyTo(t *testing.T, name, cluster string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{}
	text := `{"name":"` + name + `","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"envoy.filters.network.tcp_proxy","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"x","cluster":"` + cluster + `"}}]}]}`
	if err := protojson.Unmarshal([]byte(text), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// says serves its name to each connection.
func says(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, name)
			c.Close()
		}
	}()
	return ln.Addr().String()
}

func runEmpty(t *testing.T) *running {
	t.Helper()
	boot, err := decode.Bootstrap([]byte(`node: {id: test, cluster: test}`), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, Options{DrainTime: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Server: s, t: t, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		s.Abort()
		stop()
		<-r.done
	})
	return r
}

func (r *running) hears(listener string) string {
	r.t.Helper()
	addrs := r.Listening(listener)
	if len(addrs) == 0 {
		return "nothing listens"
	}
	c, err := net.DialTimeout("tcp", addrs[0].String(), patience)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	text, _ := io.ReadAll(c)
	return string(text)
}

func TestAnUpdateInTheProcessTakesThePlaceOfTheOneBefore(t *testing.T) {
	r := runEmpty(t)
	a, b := says(t, "a"), says(t, "b")
	must := func(u Update) {
		t.Helper()
		if err := r.Update(u); err != nil {
			t.Fatal(err)
		}
	}
	must(Update{Version: "1", Clusters: []*clusterv3.Cluster{clusterTo(t, "a", a)}, Listeners: []*listenerv3.Listener{proxyTo(t, "l", "a")}})
	r.eventually("the first update serves", func() bool { return r.hears("l") == "a" })
	must(Update{Version: "2", Clusters: []*clusterv3.Cluster{clusterTo(t, "b", b)}, Listeners: []*listenerv3.Listener{proxyTo(t, "l", "b")}})
	if got := r.hears("l"); got != "b" {
		t.Errorf("after the second update: %q, want b", got)
	}
	if r.clusters.Get("a") != nil {
		t.Error("the first update's cluster is still there")
	}
	must(Update{Version: "3"})
	if got := r.hears("l"); got != "nothing listens" {
		t.Errorf("after an empty update: %q", got)
	}
}

func TestAnUpdateWithOneMistakeChangesNothing(t *testing.T) {
	r := runEmpty(t)
	a, b := says(t, "a"), says(t, "b")
	if err := r.Update(Update{Clusters: []*clusterv3.Cluster{clusterTo(t, "a", a)}, Listeners: []*listenerv3.Listener{proxyTo(t, "l", "a")}}); err != nil {
		t.Fatal(err)
	}
	r.eventually("it serves", func() bool { return r.hears("l") == "a" })
	broken := proxyTo(t, "m", "b")
	broken.FilterChains[0].Filters[0].Name = ""
	err := r.Update(Update{Clusters: []*clusterv3.Cluster{clusterTo(t, "b", b)}, Listeners: []*listenerv3.Listener{proxyTo(t, "l", "b"), broken}})
	if err == nil || !strings.Contains(err.Error(), "listeners[1]") {
		t.Errorf("the mistake's place is not told: %v", err)
	}
	if got := r.hears("l"); got != "a" {
		t.Errorf("after the refused update: %q, want a", got)
	}
}
