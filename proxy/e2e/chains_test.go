//go:build envoy

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/listener"
	"outrider/proxy/match"
	"outrider/proxy/stats"
)

// chooser is one listener's listener filters and filter chains, as ours.
type chooser struct {
	filters *listener.Filters
	table   *match.Table
}

// TestEnvoyChoosesTheSameFilterChains has random tables of filter chains and
// random connections. Each connection begins with a PROXY header, so that its
// addresses and ports are free, and each chain answers with its name.
//
// Left out is what Envoy leaves open: a chain for 0.0.0.0/0 or ::/0 beside one
// without prefix_ranges, which Envoy keeps as equals.
func TestEnvoyChoosesTheSameFilterChains(t *testing.T) {
	const tables, connections = 40, 25
	r := random{rand.New(rand.NewPCG(1, 2))}
	var ours []chooser
	var theirs []any
	for i := range tables {
		cfg := r.listener(t)
		cfg.Name = fmt.Sprint("l", i)
		ours = append(ours, choose(t, cfg))
		theirs = append(theirs, listenerJSON(cfg))
	}
	bootstrap, err := json.Marshal(object{"listeners": theirs})
	if err != nil {
		t.Fatal(err)
	}
	proxy := start(t, envoy, t.TempDir(), "static_resources: "+string(bootstrap)+"\n").ready()
	found := 0
	for i, c := range ours {
		addr := proxy.addr(fmt.Sprint("l", i))
		for range connections {
			sent, source := r.connection(t)
			want := answered(t, addr, source, sent)
			got, why := c.choice(t, source, sent)
			if got != want {
				t.Errorf("l%d, from %s, %.60q: chain %q, Envoy has %q\n%+v", i, source, sent, got, want, why)
			}
			if want != "" {
				found++
			}
		}
	}
	if found < tables*connections/10 {
		t.Errorf("only %d connections met a chain: the test says little", found)
	}
}

type object = map[string]any

// random makes tables and connections.
type random struct{ *rand.Rand }

// some are those of all that a throw of one in n hits.
func (r random) some(n int, all ...string) (out []string) {
	for _, s := range all {
		if r.IntN(n) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func (r random) prefixes(n int, all ...string) (out []netip.Prefix) {
	for _, s := range r.some(n, all...) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func one[T any](r random, all ...T) T { return all[r.IntN(len(all))] }

// listener has up to ten chains that do not overlap.
func (r random) listener(t *testing.T) *config.Listener {
	t.Helper()
	cfg := &config.Listener{FiltersTimeout: time.Minute, Filters: []*config.ListenerFilter{
		{Name: "proxy", ProxyProtocol: &config.ProxyProtocol{}},
		{Name: "tls", TLSInspector: &config.TLSInspector{}},
		{Name: "http", HTTPInspector: &config.HTTPInspector{}},
	}}
	for i := range 1 + r.IntN(10) {
		chain := &config.FilterChain{Name: fmt.Sprint("c", i), Match: r.match()}
		all := append(slices.Clone(cfg.Chains), chain)
		if _, err := match.Compile(all, nil); err == nil {
			cfg.Chains = all
		}
	}
	if len(cfg.Chains) == 0 || r.IntN(3) == 0 {
		cfg.DefaultChain = &config.FilterChain{Name: "default"}
	}
	return cfg
}

func (r random) match() config.FilterChainMatch {
	m := config.FilterChainMatch{
		DestinationPort:      one[uint16](r, 0, 0, 1, 2),
		Prefixes:             r.prefixes(4, "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "fd00::/8", "fd00::1/128"),
		ServerNames:          r.some(4, "a.b.c", "*.b.c", "*.c", "b.c", "x"),
		TransportProtocol:    one(r, "", "", "tls", "raw_buffer"),
		ApplicationProtocols: r.some(4, "h2", "istio", "http/1.1", "h2c"),
		DirectSourcePrefixes: r.prefixes(6, "127.0.0.0/8", "127.0.0.5/32"),
		SourceType:           one(r, config.SourceAny, config.SourceAny, config.SourceSameIPOrLoopback, config.SourceExternal),
		SourcePrefixes:       r.prefixes(5, "10.0.0.0/8", "127.0.0.0/8", "10.1.2.0/24"),
	}
	if r.IntN(4) == 0 {
		m.SourcePorts = []uint16{one[uint16](r, 1, 2)}
	}
	return m
}

// connection is what a client sends first, and its address.
func (r random) connection(t *testing.T) (sent, source string) {
	t.Helper()
	family, addrs := "TCP4", []string{"10.0.0.1", "10.1.0.1", "10.1.2.3", "127.0.0.1", "127.0.0.6", "192.0.2.1"}
	if r.IntN(5) == 0 {
		family, addrs = "TCP6", []string{"fd00::1", "fd00::2", "::1", "2001::1"}
	}
	header := fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, one(r, addrs...), one(r, addrs...), 1+r.IntN(3), 1+r.IntN(3))
	source = one(r, "127.0.0.1", "127.0.0.5")
	switch r.IntN(4) {
	case 0:
		return header + "GET / HTTP/1.1\r\n\r\n", source
	case 1:
		return header + "\x01\x02\x03\x04\x05\n", source
	}
	offered := r.some(2, "istio", "h2", "http/1.1")
	r.Shuffle(len(offered), func(i, j int) { offered[i], offered[j] = offered[j], offered[i] })
	return header + clientHello(t, one(r, "", "a.b.c", "x.b.c", "x.c", "b.c", "c", "X", "d"), offered), source
}

// clientHello is what crypto/tls sends first.
func clientHello(t *testing.T, name string, protocols []string) string {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		tls.Client(client, &tls.Config{ServerName: name, NextProtos: protocols, InsecureSkipVerify: true}).Handshake()
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatal(err)
	}
	record := append(header, make([]byte, int(header[3])<<8|int(header[4]))...)
	if _, err := io.ReadFull(server, record[5:]); err != nil {
		t.Fatal(err)
	}
	return string(record)
}

// answered is the name that the chain at addr answers with, "" for none.
func answered(t *testing.T, addr, source, sent string) string {
	t.Helper()
	c := from(t, source, addr)
	defer c.Close()
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	name, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("no answer to %q", sent)
	}
	return string(name)
}

func from(t *testing.T, source, addr string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func choose(t *testing.T, cfg *config.Listener) chooser {
	t.Helper()
	registry := stats.New()
	filters, err := listener.Compile(cfg, listener.Deps{Stats: registry, Listener: registry.Scope("listener")})
	if err != nil {
		t.Fatal(err)
	}
	table, err := match.Compile(cfg.Chains, cfg.DefaultChain)
	if err != nil {
		t.Fatal(err)
	}
	return chooser{filters, table}
}

// choice is the name of the chain that we choose, "" for none, and why.
func (c chooser) choice(t *testing.T, source, sent string) (string, match.Explanation) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client := from(t, source, ln.Addr().String())
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.WriteString(client, sent); err != nil {
		t.Fatal(err)
	}
	info := &flow.Info{TransportProtocol: "raw_buffer"}
	info.Local.AddrPort = server.LocalAddr().(*net.TCPAddr).AddrPort()
	info.Remote.AddrPort = server.RemoteAddr().(*net.TCPAddr).AddrPort()
	info.DirectLocal, info.DirectRemote = info.Local, info.Remote
	if err := c.filters.Run(t.Context(), server, info); err != nil {
		t.Fatal(err)
	}
	key := match.Key{
		Destination: info.Local.AddrPort, Source: info.Remote.AddrPort, DirectSource: info.DirectRemote.AddrPort,
		ServerName: info.SNI, Transport: info.TransportProtocol, ALPNs: info.ALPNs,
	}
	name := ""
	if chain := c.table.Find(key); chain != nil {
		name = chain.Name
	}
	return name, c.table.Explain(key)
}

// extensions is where Envoy's extensions have their types.
const extensions = "type.googleapis.com/envoy.extensions.filters."

func listenerJSON(cfg *config.Listener) object {
	filter := func(name, kind string) object {
		return object{"name": name, "typed_config": object{"@type": extensions + "listener." + kind}}
	}
	out := object{
		"name": cfg.Name, "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"listener_filters": []any{
			filter("proxy", "proxy_protocol.v3.ProxyProtocol"), filter("tls", "tls_inspector.v3.TlsInspector"),
			filter("http", "http_inspector.v3.HttpInspector"),
		},
	}
	var chains []any
	for _, c := range cfg.Chains {
		chain := chainJSON(c.Name)
		chain["filter_chain_match"] = matchJSON(&c.Match)
		chains = append(chains, chain)
	}
	out["filter_chains"] = chains
	if cfg.DefaultChain != nil {
		out["default_filter_chain"] = chainJSON(cfg.DefaultChain.Name)
	}
	return out
}

// chainJSON is a chain that answers with its name.
func chainJSON(name string) object {
	return object{"name": name, "filters": []any{object{"name": "answer", "typed_config": object{
		"@type": extensions + "network.direct_response.v3.Config", "response": object{"inline_string": name},
	}}}}
}

func matchJSON(m *config.FilterChainMatch) object {
	out := object{
		"prefix_ranges": prefixJSON(m.Prefixes), "server_names": m.ServerNames,
		"transport_protocol": m.TransportProtocol, "application_protocols": m.ApplicationProtocols,
		"direct_source_prefix_ranges": prefixJSON(m.DirectSourcePrefixes), "source_type": int(m.SourceType),
		"source_prefix_ranges": prefixJSON(m.SourcePrefixes), "source_ports": m.SourcePorts,
	}
	if m.DestinationPort != 0 {
		out["destination_port"] = m.DestinationPort
	}
	return out
}

func prefixJSON(all []netip.Prefix) (out []any) {
	for _, p := range all {
		out = append(out, object{"address_prefix": p.Addr().String(), "prefix_len": p.Bits()})
	}
	return out
}
