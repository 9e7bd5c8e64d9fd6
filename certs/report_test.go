package certs_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs"
	"outrider/certs/ca"
)

// pairHandle has a certificate of that life, below an intermediate.
func pairHandle(t *testing.T, from, to time.Time) (*certs.Handle, *ca.CA) {
	t.Helper()
	inter, err := authority(t).Intermediate("inter")
	if err != nil {
		t.Fatal(err)
	}
	one := issue(t, inter, ca.Leaf{ID: "spiffe://td/a", DNS: []string{"a.example"}, NotBefore: from, NotAfter: to})
	pair, err := certs.ParseKeyPair(one.ChainPEM, one.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	h := certs.NewHandle(certs.Ref{Name: "default"})
	h.Publish(&certs.Secret{Name: "default", Version: "1", From: "a test", KeyPair: pair})
	return h, inter
}

func TestReportTellsHowGoodACertificateIs(t *testing.T) {
	now := time.Now()
	from, to := now.Add(-time.Hour), now.Add(2*time.Hour)
	for name, c := range map[string]struct {
		at     time.Time
		failed bool
		want   certs.State
	}{
		"in its time":                               {now, false, certs.StateOK},
		"in its time, after a failure":              {now, true, certs.StateOK},
		"with a third of its life left":             {now.Add(61 * time.Minute), false, certs.StateOK},
		"with a third of its life left and failing": {now.Add(61 * time.Minute), true, certs.StateExpiring},
		"over":               {to.Add(time.Second), false, certs.StateExpired},
		"before it begins":   {from.Add(-time.Second), false, certs.StateNotYetValid},
		"at its last moment": {to.Add(-time.Second), false, certs.StateOK},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := pairHandle(t, from, to)
			if c.failed {
				h.Fail(errors.New("no"))
			}
			if got := certs.Report([]*certs.Handle{h}, c.at)[0].State; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestReportDescribesAKeyPair(t *testing.T) {
	h, inter := pairHandle(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	next := time.Now().Add(30 * time.Minute)
	h.Plan(next)
	h.Attempt()
	h.Fail(status.Error(codes.Unauthenticated, "the token is old"))
	got := certs.Report([]*certs.Handle{h}, time.Now())[0]
	secret, err := h.Current()
	if err != nil {
		t.Fatal(err)
	}
	switch leaf := secret.KeyPair.TLS.Leaf; {
	case got.Name != "default", got.Kind != certs.KindKeyPair, got.Source != "a test", got.Version != "1":
		t.Errorf("got %+v", got)
	case got.SPIFFEID != "spiffe://td/a", len(got.DNSNames) != 1, got.DNSNames[0] != "a.example":
		t.Errorf("the names are %q, %q", got.SPIFFEID, got.DNSNames)
	case got.Leaf.Serial != leaf.SerialNumber.Text(16), !got.Leaf.NotAfter.Equal(leaf.NotAfter):
		t.Errorf("the leaf is %+v", got.Leaf)
	case got.CA == nil, got.CA.KeyID != certs.KeyID(inter.Cert):
		t.Errorf("the CA is %+v", got.CA)
	case !got.NextRotation.Equal(next), got.Attempts != 1, got.Successes != 1, got.Failures != 1, got.Rotations != 0:
		t.Errorf("the counts are %+v", got)
	case got.LastFailure == nil, got.LastFailure.Reason != "unauthenticated", got.LastFailure.Over:
		t.Errorf("the last failure is %+v", got.LastFailure)
	}
}

func TestAFailureIsToldOfWhenItIsOver(t *testing.T) {
	h, _ := pairHandle(t, time.Time{}, time.Time{})
	h.Reject(errors.New("it does not fit"))
	secret, _ := h.Current()
	again := *secret
	again.Version = "2"
	h.Publish(&again)
	got := certs.Report([]*certs.Handle{h}, time.Now())[0]
	if f := got.LastFailure; f == nil || !f.Over || f.Text != "it does not fit" || f.Reason != "rejected" {
		t.Errorf("the last failure is %+v", f)
	}
	if got.Rotations != 1 {
		t.Errorf("%d rotations, want 1", got.Rotations)
	}
}

func TestRootsAreExpiredWhenATrustDomainHasNoneLeft(t *testing.T) {
	old, young := *authority(t).Cert, authority(t).Cert
	old.NotAfter = time.Now().Add(-time.Minute)
	one, two := spiffeid.RequireTrustDomainFromString("one"), spiffeid.RequireTrustDomainFromString("two")
	for name, c := range map[string]struct {
		of   *certs.Validation
		want certs.State
	}{
		"an old one beside a good one": {&certs.Validation{Roots: []*x509.Certificate{&old, young}}, certs.StateOK},
		"only an old one":              {&certs.Validation{Roots: []*x509.Certificate{&old}}, certs.StateExpired},
		"an old one in one of two trust domains": {&certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{
			one: {young}, two: {&old},
		}}, certs.StateExpired},
		"a good one in each trust domain": {&certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{
			one: {young}, two: {&old, young},
		}}, certs.StateOK},
	} {
		t.Run(name, func(t *testing.T) {
			h := certs.NewHandle(certs.Ref{Name: "ROOTCA"})
			h.Publish(&certs.Secret{Version: "1", Validation: c.of})
			got := certs.Report([]*certs.Handle{h}, time.Now())[0]
			if got.State != c.want {
				t.Errorf("got %q, want %q", got.State, c.want)
			}
			if len(got.Roots) != len(c.of.AllRoots()) {
				t.Errorf("%d roots, want %d", len(got.Roots), len(c.of.AllRoots()))
			}
		})
	}
}

func TestAHandleThatFollowsTellsOfItsSource(t *testing.T) {
	source, h := certs.NewHandle(certs.Ref{Name: "default"}), certs.NewHandle(certs.Ref{Name: "default"})
	h.Follow(source)
	next := time.Now().Add(time.Minute)
	source.Attempt()
	source.Fail(context.DeadlineExceeded)
	source.Plan(next)
	got := certs.Report([]*certs.Handle{h}, time.Now())[0]
	if got.State != certs.StateWaiting || got.Waiting == "" {
		t.Errorf("the state is %q, %q", got.State, got.Waiting)
	}
	if got.Attempts != 1 || got.Failures != 1 || !got.NextRotation.Equal(next) || !maps.Equal(got.FailuresByReason, map[string]uint64{"timeout": 1}) {
		t.Errorf("got %+v", got)
	}
}

func TestFailureReasonIsOneOfFew(t *testing.T) {
	_, missing := os.Open("/nowhere/at/all")
	for want, err := range map[string]error{
		"unauthenticated":   fmt.Errorf("authority: %w", status.Error(codes.Unauthenticated, "x")),
		"permission_denied": status.Error(codes.PermissionDenied, "x"),
		"deadline_exceeded": status.Error(codes.DeadlineExceeded, "x"),
		"timeout":           fmt.Errorf("no answer: %w", context.DeadlineExceeded),
		"dns":               &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host"}},
		"network":           &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		"certificate":       fmt.Errorf("chain: %w", x509.UnknownAuthorityError{}),
		"file":              fmt.Errorf("token: %w", missing),
		"other":             errors.New("something"),
	} {
		if got := certs.FailureReason(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
	if !errors.Is(missing, fs.ErrNotExist) {
		t.Fatal(missing)
	}
}

func TestTableShowsEachSecretAndEachRoot(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	root := certs.Certificate{Subject: "CN=root", KeyID: "00112233445566778899aabbccddeeff", Serial: "1", TrustDomain: "td", NotAfter: now.Add(100 * time.Hour)}
	second := root
	second.Subject, second.NotAfter = "CN=second", now.Add(-30*time.Second)
	var got strings.Builder
	err := certs.Table(&got, []certs.SecretStatus{
		{Name: "default", State: certs.StateExpiring, SPIFFEID: "spiffe://td/a", Leaf: &certs.Certificate{Serial: "ab", NotAfter: now.Add(90 * time.Minute)},
			Root: &root, NextRotation: now.Add(20 * time.Second),
			LastFailure: &certs.Failure{Time: now.Add(-5 * time.Second), Reason: "unavailable", Text: "two\nlines"}},
		{Name: "ROOTCA", State: certs.StateOK, Roots: []certs.Certificate{root, second}},
		{Name: "later", State: certs.StateWaiting, Waiting: "not supplied"},
		{Source: "inline", State: certs.StateOK, Kind: certs.KindTicketKeys},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := `SECRET    STATE     IDENTITY       SERIAL  EXPIRES IN       ROOT                           NEXT ROTATION  LAST FAILURE
default   expiring  spiffe://td/a  ab      1h30m            CN=root 0011223344556677...    in 20s         5s ago: unavailable: two lines
ROOTCA    ok        td             1       4d4h             CN=root 0011223344556677...    -              -
-         ok        td             1       expired 30s ago  CN=second 0011223344556677...  -              -
later     waiting   -              -       -                -                              -              not supplied
(inline)  ok        ticket keys    -       -                -                              -              -
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestReportNamesTheRootOfAKeyPair(t *testing.T) {
	h, inter := pairHandle(t, time.Time{}, time.Time{})
	roots := certs.NewHandle(certs.Ref{Name: "ROOTCA"})
	report := func() *certs.Certificate { return certs.Report([]*certs.Handle{h, roots}, time.Now())[0].Root }
	roots.Publish(&certs.Secret{Version: "1", Validation: &certs.Validation{Roots: []*x509.Certificate{authority(t).Cert}}})
	if got := report(); got != nil {
		t.Errorf("got %+v for a root of the same name that did not sign", got)
	}
	top, err := certs.ParseRoots(inter.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	roots.Publish(&certs.Secret{Version: "2", Validation: &certs.Validation{Roots: top}})
	if got := report(); got == nil || got.KeyID != certs.KeyID(top[0]) {
		t.Errorf("got %+v, want the root that signed", got)
	}
}
