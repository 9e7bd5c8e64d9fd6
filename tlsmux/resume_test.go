package tlsmux

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
)

// ticketRef is one ticket key for several servers: their tickets differ in
// nothing but the policy.
func ticketRef() *certs.Ref {
	return &certs.Ref{Inline: &certs.Secret{Version: "1", TicketKeys: [][32]byte{{1}}}}
}

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func TestASessionIsResumedUnderTheSamePolicyOnly(t *testing.T) {
	m := newMesh(t)
	other := root(t, "another")
	now := time.Now()
	san := func(id string) []certs.SANMatcher { return []certs.SANMatcher{exactURI(id)} }
	cases := map[string]struct {
		change  func(*ServerConfig)
		resumed bool
		want    Reason
	}{
		"nothing":                   {func(*ServerConfig) {}, true, ""},
		"another certificate":       {func(c *ServerConfig) { c.Certificates = []certs.Ref{inline(m.root.issue(t, "b2"))} }, true, ""},
		"a root more":               {func(c *ServerConfig) { c.Validation.Roots = roots(m.root, other) }, false, ""},
		"a matcher that fits":       {func(c *ServerConfig) { c.Validation.SANs = san("spiffe://prod/a") }, false, ""},
		"a matcher that does not":   {func(c *ServerConfig) { c.Validation.SANs = san("spiffe://prod/z") }, false, ReasonSAN},
		"the root is gone":          {func(c *ServerConfig) { c.Validation.Roots = roots(other) }, false, ReasonUnknownRoot},
		"the certificate is pinned": {func(c *ServerConfig) { c.Validation.CertHashes = make([][32]byte, 1) }, false, ReasonHash},
		"revoked": {func(c *ServerConfig) {
			c.Validation.CRLs = []*x509.RevocationList{m.root.crl(t, now.Add(-time.Hour), now.Add(time.Hour), m.a)}
		}, false, ReasonCRL},
		"no tickets": {func(c *ServerConfig) { c.DisableTickets = true }, false, ""},
		"other keys": {func(c *ServerConfig) { c.TicketKeys = nil }, false, ""},
	}
	for vname, version := range versions {
		for name, c := range cases {
			t.Run(vname+"/"+name, func(t *testing.T) {
				before, after := m.serverConfig(), m.serverConfig()
				before.TicketKeys, after.TicketKeys = ticketRef(), ticketRef()
				before.MaxVersion, after.MaxVersion = version, version
				c.change(after)
				client := NewClient(m.clientConfig(), noFeeds())
				if got := shakeHands(t, client, NewServer(before, noFeeds()), ClientOptions{}); got.serverErr != nil || got.clientErr != nil {
					t.Fatal(got.serverErr, got.clientErr)
				}
				got := shakeHands(t, client, NewServer(after, noFeeds()), ClientOptions{})
				if reasonOf(got.serverErr) != c.want {
					t.Fatalf("got %v, want %q", got.serverErr, c.want)
				}
				if c.want == "" && (got.server.State().Resumed != c.resumed || got.client.State().Resumed != c.resumed) {
					t.Errorf("resumed: server %t, client %t, want %t", got.server.State().Resumed, got.client.State().Resumed, c.resumed)
				}
				if c.want == "" && (got.server.State().PeerID.String() != "spiffe://prod/a" || got.client.State().PeerID.String() != "spiffe://prod/b" || got.client.State().Local == nil) {
					t.Errorf("who: server sees %q, client %q", got.server.State().PeerID, got.client.State().PeerID)
				}
			})
		}
	}
}

// unbound makes a server take any session that its ticket key opens, so that
// verification is all that is left.
func unbound(t *testing.T, s *Server) {
	t.Helper()
	m, err := s.material()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*tls.Config{m.config, m.noALPN} {
		c.WrapSession, c.UnwrapSession = nil, nil
	}
}

func TestTheServerVerifiesAResumedSession(t *testing.T) {
	m := newMesh(t)
	for vname, version := range versions {
		for name, change := range map[string]func(*certs.Validation){
			"root removed": func(v *certs.Validation) { v.Roots = roots(root(t, "another")) },
			"name refused": func(v *certs.Validation) { v.SANs = []certs.SANMatcher{exactURI("spiffe://prod/z")} },
			"nothing new":  func(*certs.Validation) {},
		} {
			t.Run(vname+"/"+name, func(t *testing.T) {
				before, after := m.serverConfig(), m.serverConfig()
				before.TicketKeys, after.TicketKeys, before.MaxVersion, after.MaxVersion = ticketRef(), ticketRef(), version, version
				change(after.Validation)
				s1, s2 := NewServer(before, noFeeds()), NewServer(after, noFeeds())
				unbound(t, s1)
				unbound(t, s2)
				client := NewClient(m.clientConfig(), noFeeds())
				if got := shakeHands(t, client, s1, ClientOptions{}); got.serverErr != nil {
					t.Fatal(got.serverErr)
				}
				got := shakeHands(t, client, s2, ClientOptions{})
				if name != "nothing new" {
					if reasonOf(got.serverErr) == "" {
						t.Errorf("a session was resumed past the policy")
					}
				} else if got.serverErr != nil || !got.server.State().Resumed {
					t.Errorf("not resumed (%v): the test proves nothing", got.serverErr)
				}
			})
		}
	}
}

func TestTheClientVerifiesAResumedSession(t *testing.T) {
	m := newMesh(t)
	for vname, version := range versions {
		for name, change := range map[string]func(*certs.Validation){
			"root removed": func(v *certs.Validation) { v.Roots = roots(root(t, "another")) },
			"name refused": func(v *certs.Validation) { v.SANs = []certs.SANMatcher{exactURI("spiffe://prod/z")} },
			"nothing new":  func(*certs.Validation) {},
		} {
			t.Run(vname+"/"+name, func(t *testing.T) {
				before, after := m.clientConfig(), m.clientConfig()
				change(after.Validation)
				c1, c2 := NewClient(before, noFeeds()), NewClient(after, noFeeds())
				m1, err1 := c1.material()
				m2, err2 := c2.material()
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				m2.config.ClientSessionCache = m1.config.ClientSessionCache // which a rotation would have thrown away
				cfg := m.serverConfig()
				cfg.MaxVersion = version
				s := NewServer(cfg, noFeeds())
				if got := shakeHands(t, c1, s, ClientOptions{}); got.clientErr != nil {
					t.Fatal(got.clientErr)
				}
				got := shakeHands(t, c2, s, ClientOptions{})
				if name != "nothing new" {
					if reasonOf(got.clientErr) == "" {
						t.Errorf("a session was resumed past the policy")
					}
				} else if got.clientErr != nil || !got.client.State().Resumed {
					t.Errorf("not resumed (%v): the test proves nothing", got.clientErr)
				}
			})
		}
	}
}

func TestARotationOnTheClientEndsItsSessions(t *testing.T) {
	m := newMesh(t)
	store := noFeeds()
	key := certs.Ref{Name: "default"}
	store.Get(key).Publish(&certs.Secret{Version: "1", KeyPair: m.a.pair()})
	cc := m.clientConfig()
	cc.Certificates = []certs.Ref{key}
	c, s := NewClient(cc, store), NewServer(m.serverConfig(), noFeeds())
	shakeHands(t, c, s, ClientOptions{})
	if got := shakeHands(t, c, s, ClientOptions{}); got.clientErr != nil || !got.client.State().Resumed {
		t.Fatalf("not resumed: %v", got.clientErr)
	}
	next := m.root.issue(t, "a2", uri("spiffe://prod/a2"))
	store.Get(key).Publish(&certs.Secret{Version: "2", KeyPair: next.pair()})
	got := shakeHands(t, c, s, ClientOptions{})
	if got.clientErr != nil || got.client.State().Resumed || got.server.State().PeerID.String() != "spiffe://prod/a2" {
		t.Errorf("%v: the server sees %v", got.clientErr, got.server.State().PeerID)
	}
}

func TestARotationOnTheServerEndsItsSessionsUnlessItsTicketKeysAreGiven(t *testing.T) {
	for given, resumed := range map[bool]bool{false: false, true: true} {
		m := newMesh(t)
		store := noFeeds()
		key := certs.Ref{Name: "default"}
		store.Get(key).Publish(&certs.Secret{Version: "1", KeyPair: m.b.pair()})
		sc := m.serverConfig()
		sc.Certificates = []certs.Ref{key}
		if given {
			sc.TicketKeys = ticketRef()
		}
		c, s := NewClient(m.clientConfig(), noFeeds()), NewServer(sc, store)
		shakeHands(t, c, s, ClientOptions{})
		if got := shakeHands(t, c, s, ClientOptions{}); got.clientErr != nil || !got.client.State().Resumed {
			t.Fatalf("not resumed: %v", got.clientErr)
		}
		store.Get(key).Publish(&certs.Secret{Version: "2", KeyPair: m.root.issue(t, "b2", uri("spiffe://prod/b")).pair()})
		got := shakeHands(t, c, s, ClientOptions{})
		if got.clientErr != nil || got.client.State().Resumed != resumed {
			t.Errorf("ticket keys given: %t; after the rotation: resumed %t, want %t (%v)", given, !resumed, resumed, got.clientErr)
		}
	}
}

func TestACertificateMayEndDuringAResumptionButNotBefore(t *testing.T) {
	ends := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for now, want := range map[time.Time]time.Time{
		ends.Add(-time.Minute):            ends.Add(-time.Minute),
		ends:                              ends,
		ends.Add(3 * time.Millisecond):    ends,
		ends.Add(resumptionTime):          ends.Add(resumptionTime),
		ends.Add(resumptionTime * 100000): ends.Add(resumptionTime * 100000),
	} {
		if got := asOfStart(ends, now); !got.Equal(want) {
			t.Errorf("%s after the end: judged as of %s", now.Sub(ends), got)
		}
	}
}

func TestNoSessionKeysResumeNothing(t *testing.T) {
	m := newMesh(t)
	cc := m.clientConfig()
	cc.MaxSessionKeys = 0
	c, s := NewClient(cc, noFeeds()), NewServer(m.serverConfig(), noFeeds())
	shakeHands(t, c, s, ClientOptions{})
	if got := shakeHands(t, c, s, ClientOptions{}); got.clientErr != nil || got.client.State().Resumed {
		t.Errorf("resumed, or %v", got.clientErr)
	}
}

// A client that was let in without a certificate brings one when it is
// demanded, instead of resuming and being refused.
func TestASessionWithoutACertificateIsNotResumedWhereOneIsDemanded(t *testing.T) {
	m := newMesh(t)
	open, closed := m.serverConfig(), m.serverConfig()
	open.RequireClientCertificate, open.Validation = false, nil
	open.TicketKeys, closed.TicketKeys = ticketRef(), ticketRef()
	c := NewClient(m.clientConfig(), noFeeds())
	if got := shakeHands(t, c, NewServer(open, noFeeds()), ClientOptions{}); got.serverErr != nil || len(got.server.State().Peer) != 0 {
		t.Fatal(got.serverErr)
	}
	got := shakeHands(t, c, NewServer(closed, noFeeds()), ClientOptions{})
	if got.serverErr != nil || !got.server.State().PeerVerified {
		t.Errorf("got %v, want a full handshake", got.serverErr)
	}
}

func TestASessionEndsWithItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		cfg := m.serverConfig()
		cfg.SessionTimeout = 10 * time.Minute
		s, c := NewServer(cfg, noFeeds()), NewClient(m.clientConfig(), noFeeds())
		for _, step := range []struct {
			after   time.Duration
			resumed bool
		}{{0, false}, {9 * time.Minute, true}, {11 * time.Minute, false}} {
			time.Sleep(step.after)
			near, far := net.Pipe()
			done := make(chan error, 1)
			go func() {
				conn, err := s.Handshake(t.Context(), far)
				if err == nil {
					_, err = conn.Write([]byte("x"))
				}
				done <- err
			}()
			conn, err := c.Handshake(t.Context(), near, ClientOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := conn.State().Resumed; got != step.resumed {
				t.Errorf("after %s: resumed %t, want %t", step.after, got, step.resumed)
			}
			near.Close()
			far.Close()
		}
	})
}

func TestTicketKeysChangeDailyAndYesterdaysIsGoodForADay(t *testing.T) {
	k := newTicketKeys()
	today, tomorrow := k.of(10), k.of(11)
	if today[0] == tomorrow[0] || today[0] != tomorrow[1] {
		t.Error("the keys do not move on by one a day")
	}
	if other := newTicketKeys().of(10); other[0] == today[0] {
		t.Error("two servers have the same keys")
	}
}
