package tlsmux

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
)

// mesh is an authority with a workload on each side.
type mesh struct{ root, a, b *node }

func newMesh(tb testing.TB) *mesh {
	r := root(tb, "mesh")
	return &mesh{r, r.issue(tb, "a", uri("spiffe://prod/a")), r.issue(tb, "b", uri("spiffe://prod/b"), dns("b.example"))}
}

// serverConfig is b's, which trusts the mesh.
func (m *mesh) serverConfig() *ServerConfig {
	return &ServerConfig{
		CommonConfig:             CommonConfig{Certificates: []certs.Ref{inline(m.b)}, Validation: &certs.Validation{Roots: roots(m.root)}},
		RequireClientCertificate: true,
	}
}

// clientConfig is a's.
func (m *mesh) clientConfig() *ClientConfig {
	return &ClientConfig{
		CommonConfig:   CommonConfig{Certificates: []certs.Ref{inline(m.a)}, Validation: &certs.Validation{Roots: roots(m.root)}},
		SNI:            "b.example",
		MaxSessionKeys: 1,
	}
}

func reasonOf(err error) Reason {
	var f *HandshakeError
	if errors.As(err, &f) {
		return f.Reason
	}
	return ""
}

func TestBothSidesKnowWhoTheyMet(t *testing.T) {
	m := newMesh(t)
	sc, cc := m.serverConfig(), m.clientConfig()
	sc.ALPN, cc.ALPN = []string{"istio", "h2"}, []string{"h2", "istio"}
	got := shakeHands(t, NewClient(cc, noFeeds()), NewServer(sc, noFeeds()), ClientOptions{})
	if got.clientErr != nil || got.serverErr != nil {
		t.Fatal(got.clientErr, got.serverErr)
	}
	for _, s := range []struct {
		name        string
		state       *State
		peer, local *node
	}{{"server", got.server.State(), m.a, m.b}, {"client", got.client.State(), m.b, m.a}} {
		st := s.state
		if st.Version != tls.VersionTLS13 || st.ALPN != "istio" || st.SNI != "b.example" || st.Resumed || st.Curve != tls.X25519 || !st.PeerVerified || st.Unverified != nil {
			t.Errorf("%s: %+v", s.name, st)
		}
		if st.PeerID.String() != s.peer.cert.URIs[0].String() || !st.Peer[0].Equal(s.peer.cert) || !st.Local.Equal(s.local.cert) {
			t.Errorf("%s: peer %s, local %v", s.name, st.PeerID, st.Local.Subject)
		}
	}
}

func TestWhetherAClientNeedsACertificate(t *testing.T) {
	m := newMesh(t)
	stranger := root(t, "elsewhere").issue(t, "s", uri("spiffe://prod/a"))
	trust := certs.Validation{Roots: roots(m.root)}
	names := certs.Validation{Roots: roots(m.root), SANs: []certs.SANMatcher{exactURI("spiffe://prod/a")}}
	lax, laxNames := trust, names
	lax.AcceptUntrusted, laxNames.AcceptUntrusted = true, true
	bare := certs.Validation{AcceptUntrusted: true}
	type outcome struct {
		reason         Reason
		peer, verified bool
	}
	cases := map[string]struct {
		v                         *certs.Validation
		require                   bool
		none, member, strangerOut outcome
	}{
		"trust, required": {&trust, true, outcome{reason: ReasonNoCert}, outcome{"", true, true}, outcome{reason: ReasonUnknownRoot}},
		"trust, optional": {&trust, false, outcome{}, outcome{"", true, true}, outcome{reason: ReasonUnknownRoot}},
		"names, optional": {&names, false, outcome{reason: ReasonNoCert}, outcome{"", true, true}, outcome{reason: ReasonUnknownRoot}},
		"untrusted":       {&lax, false, outcome{}, outcome{"", true, true}, outcome{"", true, false}},
		"untrusted names": {&laxNames, false, outcome{}, outcome{"", true, true}, outcome{"", true, false}},
		"untrusted bare":  {&bare, false, outcome{}, outcome{"", true, false}, outcome{"", true, false}},
		"no context":      {nil, false, outcome{}, outcome{}, outcome{}},
		"nothing to verify with, required": {
			nil, true,
			outcome{reason: ReasonNoCert}, outcome{reason: ReasonUnknownRoot}, outcome{reason: ReasonUnknownRoot},
		},
	}
	for name, c := range cases {
		cfg := m.serverConfig()
		cfg.Validation, cfg.RequireClientCertificate = c.v, c.require
		s := NewServer(cfg, noFeeds())
		for _, try := range []struct {
			who  string
			cert *node
			want outcome
		}{{"none", nil, c.none}, {"member", m.a, c.member}, {"stranger", stranger, c.strangerOut}} {
			t.Run(name+"/"+try.who, func(t *testing.T) {
				conf := &tls.Config{}
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if try.cert == nil {
						return &tls.Certificate{}, nil
					}
					return &try.cert.pair().TLS, nil
				}
				_, conn, err := meet(t, s, conf)
				got := outcome{reason: reasonOf(err)}
				if err == nil {
					st := conn.State()
					got.peer, got.verified = len(st.Peer) > 0, st.PeerVerified
					if (st.Unverified != nil) != (got.peer && !got.verified && c.v != &bare) {
						t.Errorf("unverified: %v", st.Unverified)
					}
				}
				if got != try.want {
					t.Errorf("got %+v (%v), want %+v", got, err, try.want)
				}
			})
		}
	}
}

// ALPN without overlap goes on without, as with Envoy; crypto/tls alone aborts.
func TestALPNMatrix(t *testing.T) {
	m := newMesh(t)
	cases := []struct {
		client, server []string
		want           string
	}{
		{nil, nil, ""},
		{nil, []string{"h2"}, ""},
		{[]string{"h2"}, nil, ""},
		{[]string{"istio"}, []string{"h2", "http/1.1"}, ""},
		{[]string{"istio"}, []string{"istio-peer-exchange", "h2", "http/1.1"}, ""},
		{[]string{"istio-peer-exchange", "istio"}, []string{"h2", "http/1.1"}, ""},
		{[]string{"istio-peer-exchange", "istio"}, []string{"istio-peer-exchange", "h2"}, "istio-peer-exchange"},
		{[]string{"http/1.1", "h2"}, []string{"h2", "http/1.1"}, "h2"},
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range cases {
			sc, cc := m.serverConfig(), m.clientConfig()
			sc.ALPN, sc.MaxVersion = c.server, version
			got := shakeHands(t, NewClient(cc, noFeeds()), NewServer(sc, noFeeds()), ClientOptions{ALPN: append([]string{}, c.client...)})
			if got.clientErr != nil || got.serverErr != nil {
				t.Errorf("%v with %v: %v, %v", c.client, c.server, got.clientErr, got.serverErr)
				continue
			}
			if a, b := got.client.State().ALPN, got.server.State().ALPN; a != c.want || b != c.want {
				t.Errorf("%v with %v: got %q and %q, want %q", c.client, c.server, a, b, c.want)
			}
		}
	}
}

func TestARotationIsSeenByTheNextHandshakeAlone(t *testing.T) {
	m := newMesh(t)
	store := noFeeds()
	key, trust := certs.Ref{Name: "default"}, certs.Ref{Name: "ROOTCA"}
	cfg := &ServerConfig{CommonConfig: CommonConfig{Certificates: []certs.Ref{key}, ValidationRef: &trust}, RequireClientCertificate: true}
	s := NewServer(cfg, store)
	publish := func(version string, leaf, authority *node) {
		store.Get(key).Publish(&certs.Secret{Name: "default", Version: version, KeyPair: leaf.pair()})
		store.Get(trust).Publish(&certs.Secret{Name: "ROOTCA", Version: version, From: "sds x", Updated: time.Now(), Validation: &certs.Validation{Roots: roots(authority)}})
	}
	publish("1", m.b, m.root)
	c := NewClient(m.clientConfig(), noFeeds())
	first := shakeHands(t, c, s, ClientOptions{})
	if first.serverErr != nil || first.clientErr != nil {
		t.Fatal(first.serverErr, first.clientErr)
	}
	next := m.root.issue(t, "b2", uri("spiffe://prod/b"))
	publish("2", next, m.root)
	second := shakeHands(t, c, s, ClientOptions{})
	if second.serverErr != nil || !second.server.State().Local.Equal(next.cert) {
		t.Errorf("second: %v, want the new certificate", second.serverErr)
	}
	publish("3", next, root(t, "another"))
	third := shakeHands(t, c, s, ClientOptions{})
	if reasonOf(third.serverErr) != ReasonUnknownRoot {
		t.Errorf("third: got %v, want unknown root", third.serverErr)
	}
	if _, err := first.client.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(io.LimitReader(first.server, 10)); string(got) != "still here" || err != nil {
		t.Errorf("the first connection: %q %v", got, err)
	}
}

func TestWithoutItsSecretNothingIsWritten(t *testing.T) {
	m := newMesh(t)
	wrongKind := noFeeds()
	wrongKind.Get(certs.Ref{Name: "ROOTCA"}).Publish(&certs.Secret{Name: "ROOTCA", Version: "1", KeyPair: m.a.pair()})
	cases := map[string]struct {
		common CommonConfig
		store  *certs.Store
		want   Reason
	}{
		"no key pair":     {CommonConfig{Certificates: []certs.Ref{{Name: "default"}}}, noFeeds(), ReasonNotReady},
		"no roots":        {CommonConfig{Certificates: []certs.Ref{inline(m.b)}, ValidationRef: &certs.Ref{Name: "ROOTCA"}}, noFeeds(), ReasonNotReady},
		"a key for roots": {CommonConfig{Certificates: []certs.Ref{inline(m.b)}, ValidationRef: &certs.Ref{Name: "ROOTCA"}}, wrongKind, ReasonUnusable},
		"roots for a key": {CommonConfig{Certificates: []certs.Ref{{Inline: &certs.Secret{Version: "1", Validation: &certs.Validation{}}}}}, noFeeds(), ReasonUnusable},
		"no key log":      {CommonConfig{Certificates: []certs.Ref{inline(m.b)}, KeyLogPath: "/does/not/exist"}, noFeeds(), ReasonUnusable},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe() // a write would block for ever
			defer near.Close()
			defer far.Close()
			s, cl := NewServer(&ServerConfig{CommonConfig: c.common}, c.store), NewClient(&ClientConfig{CommonConfig: c.common}, c.store)
			_, serr := s.Handshake(context.Background(), far)
			_, cerr := cl.Handshake(context.Background(), near, ClientOptions{})
			if reasonOf(serr) != c.want || reasonOf(cerr) != c.want {
				t.Errorf("got %v and %v, want %s", serr, cerr, c.want)
			}
			if ready := s.Ready() == nil && cl.Ready() == nil; ready == (c.want == ReasonNotReady) {
				t.Errorf("ready: %v, %v", s.Ready(), cl.Ready())
			}
			if c.want == ReasonNotReady && (!strings.Contains(serr.Error(), "is not supplied by SDS, waiting since") || serr.(*HandshakeError).EnvoyText() != "TLS error: Secret is not supplied by SDS") {
				t.Errorf("got %v", serr)
			}
		})
	}
	if _, err := NewServer(&ServerConfig{}, noFeeds()).Handshake(context.Background(), nil); reasonOf(err) != ReasonUnusable {
		t.Errorf("no certificate at all: %v", err)
	}
	empty := &ServerConfig{CommonConfig: CommonConfig{Certificates: []certs.Ref{inline(m.b)}}, TicketKeys: &certs.Ref{Inline: &certs.Secret{Version: "1"}}}
	if _, err := NewServer(empty, noFeeds()).Handshake(context.Background(), nil); reasonOf(err) != ReasonUnusable {
		t.Errorf("no ticket key: %v", err)
	}
}

func TestTheSNIMustBeAmongTheServersNamesIfAsked(t *testing.T) {
	m := newMesh(t)
	cases := map[string]struct {
		sni, host string
		sans      []certs.SANMatcher
		auto      bool
		want      Reason
	}{
		"it is":                         {sni: "b.example", auto: true},
		"it is not":                     {sni: "c.example", auto: true, want: ReasonSAN},
		"not asked":                     {sni: "c.example"},
		"it replaces the matchers":      {sni: "b.example", sans: []certs.SANMatcher{exactURI("spiffe://prod/other")}, auto: true},
		"without SNI, the matchers":     {sans: []certs.SANMatcher{exactURI("spiffe://prod/other")}, auto: true, want: ReasonSAN},
		"the endpoint's name goes out":  {sni: "c.example", host: "b.example", auto: true},
		"the endpoint's name, mismatch": {sni: "b.example", host: "c.example", auto: true, want: ReasonSAN},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cc := m.clientConfig()
			cc.SNI, cc.AutoHostSNI, cc.AutoSNISANValidation, cc.Validation.SANs = c.sni, true, c.auto, c.sans
			got := shakeHands(t, NewClient(cc, noFeeds()), NewServer(m.serverConfig(), noFeeds()), ClientOptions{Host: c.host})
			if reasonOf(got.clientErr) != c.want {
				t.Errorf("got %v, want %q", got.clientErr, c.want)
			}
			if c.want != "" && (reasonOf(got.serverErr) != ReasonAlert || got.serverErr.(*HandshakeError).Alert != 42) {
				t.Errorf("the server got %v, want alert 42", got.serverErr)
			}
		})
	}
}

// In TLS 1.3 a client is done before the server has seen its certificate.
func TestARefusalAfterTheHandshakeIsStillAHandshakeError(t *testing.T) {
	m := newMesh(t)
	cc := m.clientConfig()
	cc.Certificates = []certs.Ref{inline(root(t, "elsewhere").issue(t, "a"))}
	got := shakeHands(t, NewClient(cc, noFeeds()), NewServer(m.serverConfig(), noFeeds()), ClientOptions{})
	var f *HandshakeError
	if got.client == nil || !errors.As(got.clientErr, &f) || f.Side != Upstream || f.Reason != ReasonAlert || f.Alert != 42 {
		t.Fatalf("got %v, want alert 42 after the handshake", got.clientErr)
	}
	if want := "TLS_error:|268436498:SSL routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE:TLS_error_end"; f.EnvoyText() != want {
		t.Errorf("got  %s\nwant %s", f.EnvoyText(), want)
	}
}

func TestTheServerChoosesItsCertificateByNameAndKey(t *testing.T) {
	r := root(t, "r")
	key := rsaKey(t)
	first := r.issueKey(t, "first", key, dns("first.example"))
	rsaA, ecA := r.issueKey(t, "rsaA", key, dns("a.example")), r.issue(t, "ecA", dns("a.example"))
	wild := r.issue(t, "wild", dns("*.a.example", "*.b.example"))
	byName := r.issueKey(t, "cn.example", key)
	cases := map[string]struct {
		sni    string
		scan   bool
		noEC   bool
		wanted *node
	}{
		"exact, ECDSA preferred":            {sni: "a.example", wanted: ecA},
		"exact, ignoring case":              {sni: "A.Example", wanted: ecA},
		"exact, RSA client":                 {sni: "a.example", noEC: true, wanted: rsaA},
		"wildcard":                          {sni: "x.b.example", wanted: wild},
		"exact before wildcard":             {sni: "first.example", wanted: first},
		"a wildcard is one label":           {sni: "x.y.b.example", wanted: first},
		"the common name, without any SAN":  {sni: "cn.example", wanted: byName},
		"no match is the first":             {sni: "nobody.example", wanted: first},
		"no match, with a scan of all":      {sni: "nobody.example", scan: true, wanted: ecA},
		"no name is a scan of all":          {wanted: ecA},
		"no name, RSA client":               {noEC: true, wanted: first},
		"a wildcard of another kind of key": {sni: "x.b.example", noEC: true, wanted: first},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := &ServerConfig{FullScanCertificates: c.scan}
			cfg.Certificates = []certs.Ref{inline(first), inline(rsaA), inline(ecA), inline(wild), inline(byName)}
			client := &tls.Config{ServerName: c.sni, MaxVersion: tls.VersionTLS12}
			if c.noEC {
				client.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
			}
			st, conn, err := meet(t, NewServer(cfg, noFeeds()), client)
			if err != nil {
				t.Fatal(err)
			}
			if got := st.PeerCertificates[0]; !got.Equal(c.wanted.cert) {
				t.Errorf("got %s, want %s", got.Subject, c.wanted.cert.Subject)
			}
			if got := conn.State().Local; !got.Equal(c.wanted.cert) {
				t.Errorf("the state has %s, want %s", got.Subject, c.wanted.cert.Subject)
			}
		})
	}
}

func TestVersionsSuitesAndCurvesAreKept(t *testing.T) {
	m := newMesh(t)
	cfg := m.serverConfig()
	cfg.RequireClientCertificate, cfg.RequireSNI = false, true
	cfg.MinVersion, cfg.MaxVersion, cfg.Curves = tls.VersionTLS12, tls.VersionTLS12, []tls.CurveID{tls.CurveP256}
	cfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	s := NewServer(cfg, noFeeds())
	if _, conn, err := meet(t, s, &tls.Config{ServerName: "b.example"}); err != nil {
		t.Error(err)
	} else if st := conn.State(); st.Version != tls.VersionTLS12 || st.Curve != tls.CurveP256 || st.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 {
		t.Errorf("got %+v", st)
	}
	for name, c := range map[string]struct {
		cfg  *tls.Config
		want Reason
	}{
		"version":     {&tls.Config{ServerName: "b.example", MinVersion: tls.VersionTLS13}, ReasonProtocol},
		"suite":       {&tls.Config{ServerName: "b.example", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, ReasonProtocol},
		"curve":       {&tls.Config{ServerName: "b.example", CurvePreferences: []tls.CurveID{tls.X25519}}, ReasonProtocol},
		"server name": {&tls.Config{}, ReasonNoSNI},
	} {
		if _, _, err := meet(t, s, c.cfg); reasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	plain := m.serverConfig()
	plain.RequireClientCertificate = false
	if _, _, err := meet(t, NewServer(plain, noFeeds()), &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}); reasonOf(err) != ReasonProtocol {
		t.Errorf("a suite that is not Envoy's default: %v", err)
	}
}

func TestWhatIsNoHandshakeIsNamed(t *testing.T) {
	m := newMesh(t)
	s := NewServer(m.serverConfig(), noFeeds())
	cases := map[string]struct {
		do      func(net.Conn)
		reason  Reason
		envoy   string
		counter string
	}{
		"http":            {func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\n\r\n") }, ReasonNotTLS, "TLS_error:|268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end", "connection_error"},
		"garbage":         {func(c net.Conn) { io.WriteString(c, "garbage garbage") }, ReasonNotTLS, "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end", "connection_error"},
		"end":             {func(c net.Conn) { c.Close() }, ReasonEOF, "", ""},
		"end in a record": {func(c net.Conn) { c.Write([]byte{22, 3, 1, 0, 99, 1}); c.Close() }, ReasonEOF, "", ""},
		"reset":           {func(c net.Conn) { c.Write([]byte{22, 3, 1}); c.(*net.TCPConn).SetLinger(0); c.Close() }, ReasonReset, "TLS_error:|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			near, far := tcpPair(t)
			c.do(near)
			_, err := s.Handshake(context.Background(), far)
			var f *HandshakeError
			if !errors.As(err, &f) || f.Reason != c.reason || f.EnvoyText() != c.envoy || f.SSLCounter() != c.counter {
				t.Errorf("got %v %+v, want %s %q %q", err, f, c.reason, c.envoy, c.counter)
			}
		})
	}
}

func TestAHandshakeEndsWithItsContext(t *testing.T) {
	m := newMesh(t)
	s := NewServer(m.serverConfig(), noFeeds())
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := s.Handshake(ctx, far)
		if reasonOf(err) != ReasonTimeout || time.Since(start) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		canceled, stop := context.WithCancel(t.Context())
		stop()
		if _, err := s.Handshake(canceled, far); reasonOf(err) != ReasonCanceled {
			t.Errorf("got %v, want canceled", err)
		}
		near.Close()
		far.Close()
	})
}

func TestAFinishedHandshakeLeavesNoDeadline(t *testing.T) {
	m := newMesh(t)
	near, far := tcpPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	done := make(chan error, 1)
	var server *Conn
	go func() {
		var err error
		server, err = NewServer(m.serverConfig(), noFeeds()).Handshake(ctx, far)
		done <- err
	}()
	client, err := NewClient(m.clientConfig(), noFeeds()).Handshake(ctx, near, ClientOptions{})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	cancel()
	io.WriteString(client, "x")
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestKeysAreLoggedToThePathAlone(t *testing.T) {
	m := newMesh(t)
	cfg := m.serverConfig()
	cfg.KeyLogPath = filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(cfg.KeyLogPath, []byte("# before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shakeHands(t, NewClient(m.clientConfig(), noFeeds()), NewServer(cfg, noFeeds()), ClientOptions{}); got.serverErr != nil {
		t.Fatal(got.serverErr)
	}
	b, _ := os.ReadFile(cfg.KeyLogPath)
	if s := string(b); !strings.HasPrefix(s, "# before\n") || !strings.Contains(s, "SERVER_TRAFFIC_SECRET_0 ") {
		t.Errorf("got %q", s)
	}
}

func TestTheServerNamesItsRootsWhenItAsks(t *testing.T) {
	m := newMesh(t)
	var named [][]byte
	conf := &tls.Config{GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		named = r.AcceptableCAs
		return &m.a.pair().TLS, nil
	}}
	if _, _, err := meet(t, NewServer(m.serverConfig(), noFeeds()), conf); err != nil {
		t.Fatal(err)
	}
	if len(named) != 1 || string(named[0]) != string(m.root.cert.RawSubject) {
		t.Errorf("got %q", named)
	}
}
