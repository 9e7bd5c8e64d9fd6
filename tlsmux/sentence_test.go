package tlsmux

import (
	"crypto/x509"
	"errors"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// key identifiers are of random keys
var ski = regexp.MustCompile(`SKI [0-9a-f]{8}`)

func TestARefusalIsOneSentenceWithAllThatMendsIt(t *testing.T) {
	w := newWorld(t)
	td := spiffeid.RequireTrustDomainFromString("prod")
	clustered := root(t, "clustered", w.era(), uri("spiffe://prod"))
	secret := &certs.Secret{Name: "ROOTCA", From: "sds sds-grpc", Updated: time.Now().Add(-3 * time.Minute), Validation: &certs.Validation{Roots: roots(clustered)}}
	cart := clustered.issue(t, "", w.era(), uri("spiffe://prod/ns/web/sa/cart"))
	pay := []certs.SANMatcher{exactURI("spiffe://prod/ns/web/sa/pay"), {Type: certs.SANDNS, Match: certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: ".pay", IgnoreCase: true}}}
	late := w.root.issue(t, "late", between(w.now.Add(-time.Hour), w.now.Add(-90*time.Second)))
	stale := w.root.issue(t, "stale", between(w.now.Add(-90*time.Hour), w.now.Add(-72*time.Hour)))
	early := w.root.issue(t, "early", between(w.now.Add(2*time.Minute), w.now.Add(time.Hour)))
	future := w.root.issue(t, "future", between(w.now.Add(48*time.Hour), w.now.Add(72*time.Hour)))
	rotated := renamed(t, w.root).issue(t, "rotated", w.era(), dns("r.example"))
	const rootHere = `; roots: "CN=root" SKI # (from the configuration)`

	cases := map[string]struct {
		p    *policy
		leaf *node
		want string
	}{
		"name": {
			newPolicy((&certs.Validation{SANs: pay}).Merge(secret.Validation), secret), cart,
			`the peer presented URI spiffe://prod/ns/web/sa/cart (issued by "CN=clustered", serial 1001), expected one of: URI exact "spiffe://prod/ns/web/sa/pay", DNS suffix ".pay" (ignoring case); roots: "CN=clustered" SKI # of trust domain "prod" (ROOTCA, from sds sds-grpc, 3m0s old)`,
		},
		"unknown root": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), w.stranger,
			`the peer, who presented URI spiffe://prod/a (issued by "CN=other", serial 1001), is not signed by any of the roots` + rootHere,
		},
		"rotated root": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), rotated,
			`the peer, who presented DNS r.example (issued by "CN=root", serial 1001), is not signed by any of the roots, though one of them is called "CN=root" too: it has another key, as after a root rotation` + rootHere,
		},
		"just expired": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), late,
			`the peer, who presented subject "CN=late" without any SAN (issued by "CN=root", serial 1007), is refused: its certificate expired 1m30s ago, at 2026-06-01T11:58:30Z` + rootHere + `; our clock may be ahead: it says 2026-06-01T12:00:00Z`,
		},
		"long expired": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), stale,
			`the peer, who presented subject "CN=stale" without any SAN (issued by "CN=root", serial 1008), is refused: its certificate expired 72h0m0s ago, at 2026-05-29T12:00:00Z` + rootHere,
		},
		"not yet valid": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), early,
			`the peer, who presented subject "CN=early" without any SAN (issued by "CN=root", serial 1009), is refused: its certificate becomes valid in 2m0s, at 2026-06-01T12:02:00Z` + rootHere + `; our clock is probably behind: it says 2026-06-01T12:00:00Z`,
		},
		"far from valid": {
			newPolicy(&certs.Validation{Roots: roots(w.root)}, nil), future,
			`the peer, who presented subject "CN=future" without any SAN (issued by "CN=root", serial 100a), is refused: its certificate becomes valid in 48h0m0s, at 2026-06-03T12:00:00Z` + rootHere + `; a clock is the likely cause, ours or its CA's: ours says 2026-06-01T12:00:00Z`,
		},
		"revoked": {
			newPolicy(&certs.Validation{Roots: roots(w.root), CRLs: []*x509.RevocationList{w.crl(t, w.root, w.good)}}, nil), w.good,
			`the peer, who presented URI spiffe://prod/a (issued by "CN=root", serial 1003), was revoked: "CN=good", serial 1003, is on the list of "CN=root" since 2026-06-01T11:00:00Z` + rootHere,
		},
		"no bundle": {
			newPolicy(&certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{td: roots(w.root)}}, nil),
			w.root.issue(t, "x", w.era(), uri("spiffe://dev/a")),
			`the peer, who presented URI spiffe://dev/a (issued by "CN=root", serial 100b), is of trust domain "dev", for which there is no bundle`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := c.p.judge(question{chain: c.leaf.chain(), side: Downstream, now: w.now})
			if err == nil {
				t.Fatal("accepted")
			}
			if got := ski.ReplaceAllString(err.Error(), "SKI #"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAPeerCannotWriteLinesOrBooksIntoTheLog(t *testing.T) {
	r := root(t, "r")
	var many []string
	for range 500 {
		many = append(many, strings.Repeat("a", 60)+".example")
	}
	leaf := r.issue(t, "x", dns(append([]string{"a\nb"}, many...)...))
	err := Verify(&certs.Validation{Roots: roots(r), SANs: []certs.SANMatcher{exactURI("x")}}, leaf.chain(), Downstream, time.Now())
	var f *HandshakeError
	if !errors.As(err, &f) || len(f.Peer.SANs) != 501 {
		t.Fatalf("got %v", err)
	}
	if s := err.Error(); strings.ContainsAny(s, "\n\r") || len(s) > 2000 || !strings.Contains(s, "and 493 more") {
		t.Errorf("%d bytes: %q", len(s), s)
	}
}

func TestExplainAgreesWithAHandshake(t *testing.T) {
	m := newMesh(t)
	cfg := m.serverConfig()
	cfg.ALPN = []string{"istio", "h2"}
	cfg.Validation.SANs = []certs.SANMatcher{exactURI("spiffe://prod/z"), exactURI("spiffe://prod/a")}
	s := NewServer(cfg, noFeeds())
	stranger := root(t, "elsewhere").issue(t, "s", uri("spiffe://prod/a"))
	cases := map[string]struct {
		q    ExplainQuery
		want Reason
	}{
		"by certificate": {ExplainQuery{Chain: m.a.chain()}, ""},
		"by name":        {ExplainQuery{PeerID: "spiffe://prod/a"}, ""},
		"a stranger":     {ExplainQuery{Chain: stranger.chain()}, ReasonUnknownRoot},
		"another":        {ExplainQuery{Chain: m.b.chain()}, ReasonSAN},
		"another name":   {ExplainQuery{PeerID: "spiffe://prod/b"}, ReasonSAN},
		"nobody":         {ExplainQuery{}, ReasonNoCert},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.q.ALPN = []string{"h2", "istio"}
			x, err := s.Explain(c.q)
			if reasonOf(err) != c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if x.ALPN != "istio" || len(x.Accepts) != 2 {
				t.Errorf("got %+v", x)
			}
			if c.want == "" && (x.Matched != `URI spiffe://prod/a by URI exact "spiffe://prod/a"` || len(x.Failed) != 1 || !x.State.PeerVerified || x.State.PeerID.String() != "spiffe://prod/a") {
				t.Errorf("got %+v %+v", x, x.State)
			}
		})
	}
	if _, err := s.Explain(ExplainQuery{PeerID: "no id"}); err == nil {
		t.Error("a bad peer ID is accepted")
	}
}

var _ net.Error = errWouldBlock{}
