package certs_test

import (
	"context"
	"encoding/pem"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
)

func authority(t *testing.T) *ca.CA {
	t.Helper()
	root, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func issue(t *testing.T, from *ca.CA, l ca.Leaf) *ca.Issued {
	t.Helper()
	issued, err := from.Issue(l)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func TestParseKeyPairSaysWhatIsWrong(t *testing.T) {
	root := authority(t)
	a, b := issue(t, root, ca.Leaf{ID: "spiffe://td/a"}), issue(t, root, ca.Leaf{ID: "spiffe://td/b"})
	rsa := issue(t, root, ca.Leaf{ID: "spiffe://td/r", RSA: true})
	expired := issue(t, root, ca.Leaf{ID: "spiffe://td/e", NotAfter: time.Now().Add(-time.Minute)})
	for _, c := range []struct {
		name       string
		chain, key []byte
		want       string // in the error; "" for none
	}{
		{"good", a.ChainPEM, a.KeyPEM, ""},
		{"RSA", rsa.ChainPEM, rsa.KeyPEM, ""},
		{"expired is no error here", expired.ChainPEM, expired.KeyPEM, ""},
		{"another's key", a.ChainPEM, b.KeyPEM, "private key: an ECDSA key on P-256 does not fit the certificate"},
		{"key of another kind", a.ChainPEM, rsa.KeyPEM, "an RSA key of 2048 bits does not fit"},
		{"no certificate", nil, a.KeyPEM, "there is no certificate in it"},
		{"no key", a.ChainPEM, nil, "there is no private key in it"},
		{"a certificate for a key", a.ChainPEM, b.ChainPEM, "there is no private key in it"},
		{"broken block", []byte("-----BEGIN CERTIFICATE-----\nxx"), a.KeyPEM, "PEM block 1 cannot be read"},
		{"encrypted key", a.ChainPEM, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), "it is encrypted"},
		{"bad DER", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), a.KeyPEM, "PEM block 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pair, err := certs.ParseKeyPair(c.chain, c.key)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want a key pair", err)
			case c.want == "" && pair.TLS.Leaf == nil:
				t.Error("the key pair has no leaf")
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
	pair, err := certs.ParseKeyPair(a.ChainPEM, a.KeyPEM)
	if err != nil || pair.ID.String() != "spiffe://td/a" {
		t.Errorf("ID %v, %v, want spiffe://td/a", pair, err)
	}
}

func TestEmptyBundlesAndListsAreRefused(t *testing.T) {
	if _, err := certs.ParseRoots([]byte("nothing")); err == nil {
		t.Error("an empty bundle is accepted")
	}
	if _, err := certs.ParseCRLs(nil); err == nil {
		t.Error("an empty list is accepted")
	}
	root := authority(t)
	if roots, err := certs.ParseRoots(append(root.RootPEM(), root.RootPEM()...)); err != nil || len(roots) != 2 {
		t.Errorf("%d roots, %v, want 2", len(roots), err)
	}
}

func TestMatchersOfStrings(t *testing.T) {
	re, err := certs.CompileRegex("a|ab")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m    certs.StringMatcher
		s    string
		want bool
	}{
		{certs.StringMatcher{Pattern: "a"}, "a", true}, {certs.StringMatcher{Pattern: "a"}, "A", false},
		{certs.StringMatcher{Pattern: "a", IgnoreCase: true}, "A", true},
		{certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "sp"}, "spiffe", true},
		{certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: "sp"}, "spiffe", false},
		{certs.StringMatcher{Kind: certs.MatchContains, Pattern: "iff"}, "spiffe", true},
		{certs.StringMatcher{Kind: certs.MatchRegex, Regex: re}, "ab", true}, // the whole string
		{certs.StringMatcher{Kind: certs.MatchRegex, Regex: re}, "abc", false},
		{certs.StringMatcher{Kind: certs.MatchRegex}, "", false},
	} {
		if got := c.m.Match(c.s); got != c.want {
			t.Errorf("%s on %q: %v, want %v", c.m, c.s, got, c.want)
		}
	}
}

func TestMergeJoinsListsAndLetsTheDynamicOneWin(t *testing.T) {
	static := &certs.Validation{SANs: []certs.SANMatcher{{}}, AllowExpired: true}
	got := static.Merge(&certs.Validation{SANs: []certs.SANMatcher{{}, {}}, OnlyLeafCRL: true, RootsPath: "r"})
	if len(got.SANs) != 3 || !got.AllowExpired || !got.OnlyLeafCRL || got.Roots != nil || len(static.SANs) != 1 {
		t.Errorf("merged %+v, static %+v", got, static)
	}
	var none *certs.Validation
	if v := (&certs.Validation{}); none.Merge(v) != v || v.Merge(nil) != v {
		t.Error("nil is not neutral")
	}
}

func TestInitialFetchTimeoutEndsTheWaitAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := make(chan struct{})
		store := certs.NewStore(certs.Feeds{File: func(_ context.Context, h *certs.Handle) {
			<-feed
			h.Publish(&certs.Secret{Name: "s", Version: "1"})
		}})
		h := store.Get(certs.Ref{Name: "s", Source: &certs.Source{Path: "p", InitialFetchTimeout: 15 * time.Second}})
		forever := store.Get(certs.Ref{Name: "f", Source: &certs.Source{Cluster: "c"}})
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { done <- store.Run(ctx) }()
		start := time.Now()
		<-h.Initial()
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("the wait took %s, want 15s", took)
		}
		if _, err := h.Current(); err == nil || !h.Stats().TimedOut {
			t.Error("a secret is there, or the time-out is not counted")
		}
		close(feed)
		synctest.Wait()
		if _, err := h.Current(); err != nil {
			t.Errorf("after it came: %v", err)
		}
		select {
		case <-forever.Initial():
			t.Error("a timeout of 0 does not wait for ever")
		default:
		}
		stop()
		<-done
	})
}

func TestInlineSecretsAreForgottenWithTheirUsers(t *testing.T) {
	store := certs.NewStore(certs.Feeds{})
	kept := store.Get(certs.Ref{Inline: &certs.Secret{Version: "kept"}})
	store.Get(certs.Ref{Inline: &certs.Secret{Version: "left"}})
	runtime.GC()
	got := store.Inline()
	if len(got) != 1 || got[0] != kept {
		t.Errorf("%d handles, want the one that is in use", len(got))
	}
	runtime.KeepAlive(kept)
}
