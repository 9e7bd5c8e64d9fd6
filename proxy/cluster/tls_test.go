package cluster

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// party is an identity that trusts ca.
func party(t *testing.T, authority *ca.CA, id string, sans ...certs.SANMatcher) tlsmux.CommonConfig {
	t.Helper()
	issued, err := authority.Issue(ca.Leaf{ID: id, CN: "x"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := certs.ParseRoots(authority.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return tlsmux.CommonConfig{
		Certificates: []certs.Ref{{Inline: &certs.Secret{KeyPair: pair, Version: id}}},
		Validation:   &certs.Validation{Roots: roots, SANs: sans},
	}
}

// tlsEcho is an echo server that demands a certificate.
func tlsEcho(t *testing.T, common tlsmux.CommonConfig) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := tlsmux.NewServer(&tlsmux.ServerConfig{CommonConfig: common, RequireClientCertificate: true}, certs.NewStore(certs.Feeds{}))
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer raw.Close()
				if c, err := server.Handshake(t.Context(), raw); err == nil {
					_, _ = io.Copy(c, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	return l.Addr().String()
}

func uri(id string) certs.SANMatcher {
	return certs.SANMatcher{Type: certs.SANURI, Match: certs.StringMatcher{Pattern: id}}
}

const (
	webID = "spiffe://prod/ns/shop/sa/web"
	dbID  = "spiffe://prod/ns/shop/sa/db"
)

// autoMTLS is a cluster as Istio's: TLS for endpoints that say so, else plain.
func autoMTLS(tls tlsmux.CommonConfig, addresses ...string) *config.Cluster {
	return cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(addresses...)
		c.SocketMatches = []config.TransportSocketMatch{
			{Name: "tlsMode-istio", Match: label("tlsMode", "istio"), Socket: config.TransportSocket{TLS: &config.UpstreamTLS{CommonConfig: tls, MaxSessionKeys: 1}}},
			{Name: "tlsMode-disabled", Match: label()},
		}
	})
}

func TestEndpointMetadataDecidesBetweenTLSAndPlaintext(t *testing.T) {
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	secure, open := tlsEcho(t, party(t, authority, dbID)), echo(t)
	cfg := autoMTLS(party(t, authority, webID, uri(dbID)), secure, open)
	cfg.Assignment.Localities[0].Endpoints[0].Metadata = meta("tlsMode", "istio")
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfg)
	for range 2 {
		info := &flow.Info{}
		conn, err := s.Get("a").Connect(t.Context(), Request{Info: info})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		wantTLS := conn.Host().String() == secure
		if (conn.State() != nil) != wantTLS || (info.Upstream != nil) != wantTLS {
			t.Errorf("host %s: TLS %v, want %v", conn.Host(), conn.State() != nil, wantTLS)
		}
		if wantTLS && (conn.State().PeerID.String() != dbID || info.TransportSocketMatch != "tlsMode-istio") {
			t.Errorf("peer %s by match %q", conn.State().PeerID, info.TransportSocketMatch)
		}
		conn.Close()
	}
	if n := counter(opts, "a", "ssl.handshake"); n != 1 {
		t.Errorf("ssl.handshake %d, want 1", n)
	}
	if n := counter(opts, "a", "ssl.versions.TLSv1.3"); n != 1 {
		t.Errorf("ssl.versions.TLSv1.3 %d, want 1", n)
	}
}

func TestAWrongIdentityIsRefusedAndCounted(t *testing.T) {
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	address := tlsEcho(t, party(t, authority, "spiffe://prod/ns/shop/sa/thief"))
	cfg := autoMTLS(party(t, authority, webID, uri(dbID)), address)
	cfg.Assignment.Localities[0].Endpoints[0].Metadata = meta("tlsMode", "istio")
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfg)
	info := &flow.Info{}
	_, err = s.Get("a").Connect(t.Context(), Request{Info: info})
	var end *flow.EndError
	var refused *tlsmux.HandshakeError
	if !errors.As(err, &end) || end.Stage != flow.StageUpstreamTLS || end.Flags != flow.UpstreamConnectionFailure || !errors.As(err, &refused) {
		t.Fatalf("error %v, want UF in upstream_tls by a HandshakeError", err)
	}
	if refused.Reason != tlsmux.ReasonSAN || info.UpstreamFailure == "" {
		t.Errorf("reason %s, UpstreamFailure %q", refused.Reason, info.UpstreamFailure)
	}
	for name, want := range map[string]uint64{"ssl.fail_verify_san": 1, "ssl.handshake": 0, "upstream_cx_connect_fail": 1, "upstream_cx_destroy_local": 1} {
		if n := counter(opts, "a", name); n != want {
			t.Errorf("%s %d, want %d", name, n, want)
		}
	}
}

func TestAMissingSecretSendsNothingInPlaintext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- b
	}()
	cfg := autoMTLS(tlsmux.CommonConfig{Certificates: []certs.Ref{{Name: "default"}}}, l.Addr().String())
	cfg.Assignment.Localities[0].Endpoints[0].Metadata = meta("tlsMode", "istio")
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfg)
	_, err = s.Get("a").Connect(t.Context(), Request{})
	var missing *certs.NotReadyError
	if !errors.As(err, &missing) {
		t.Fatalf("error %v, want a NotReadyError", err)
	}
	if b := <-got; len(b) != 0 {
		t.Errorf("%d bytes were sent", len(b))
	}
	if n := counter(opts, "a", "client_ssl_socket_factory.upstream_context_secrets_not_ready"); n != 1 {
		t.Errorf("upstream_context_secrets_not_ready %d, want 1", n)
	}
}

func TestConnectTimeoutCoversTheHandshake(t *testing.T) {
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	address, release := silent(t)
	defer release()
	cfg := autoMTLS(party(t, authority, webID), address)
	cfg.ConnectTimeout = 50 * time.Millisecond
	cfg.Assignment.Localities[0].Endpoints[0].Metadata = meta("tlsMode", "istio")
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfg)
	info := &flow.Info{}
	_, err = s.Get("a").Connect(t.Context(), Request{Info: info})
	var connect *ConnectError
	if !errors.As(err, &connect) || !connect.Timeout {
		t.Fatalf("error %v, want a timeout", err)
	}
	for name, want := range map[string]uint64{"upstream_cx_connect_timeout": 1, "upstream_cx_connect_fail": 1, "upstream_cx_destroy_local": 1} {
		if n := counter(opts, "a", name); n != want {
			t.Errorf("%s %d, want %d", name, n, want)
		}
	}
	if info.UpstreamFailure != "" {
		t.Errorf("UpstreamFailure %q of a timeout, want none as in Envoy", info.UpstreamFailure)
	}
}

// silent accepts and says nothing.
func silent(t *testing.T) (string, func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	return l.Addr().String(), func() {
		l.Close()
		wait.Wait()
	}
}

func TestHealthChecksGoOverTheTransportSocket(t *testing.T) {
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	secure, open := tlsEcho(t, party(t, authority, dbID)), closedPort(t)
	cfg := autoMTLS(party(t, authority, webID, uri(dbID)), open)
	e := cfg.Assignment.Localities[0].Endpoints[0]
	e.HealthCheckPort = netip.MustParseAddrPort(secure).Port()
	cfg.HealthChecks = []*config.HealthCheck{{
		Timeout: 10 * time.Second, Interval: time.Hour, NoTrafficInterval: time.Hour, HealthyThreshold: 1, UnhealthyThreshold: 1,
		SocketMatch: label("tlsMode", "istio"), TCP: &config.TCPHealthCheck{Send: []byte("ping"), Receive: [][]byte{[]byte("ping")}},
	}}
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfg)
	if err := s.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Get("a").Describe().Hosts[0].HealthFlags; got != "healthy" {
		t.Errorf("flags %s, want healthy by a check over TLS on another port", got)
	}
	if n := counter(opts, "a", "health_check.success"); n != 1 {
		t.Errorf("health_check.success %d, want 1", n)
	}
}
