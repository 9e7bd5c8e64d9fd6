package workload

import (
	"strings"
	"testing"
	"time"

	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
	"outrider/certs/workload/workloadtest"
)

const (
	one = "spiffe://prod/one"
	two = "spiffe://prod/two"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"no address at all":      {Options{}, "$SPIFFE_ENDPOINT_SOCKET is not set"},
		"an address without URI": {Options{Address: "/run/agent.sock"}, `address "/run/agent.sock"`},
		"a host by name":         {Options{Address: "tcp://agent:80"}, `address "tcp://agent:80"`},
		"two defaults":           {Options{Address: "unix:///s", DefaultID: spiffeid.RequireFromString(one), DefaultHint: "h"}, "named twice"},
		"a trust domain as default": {
			Options{Address: "unix:///s", DefaultID: spiffeid.RequireFromString("spiffe://prod")}, "is a trust domain",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestTheAddressIsTheEnvironmentsIfNoneIsGiven(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock")
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.from, "workload API unix:///run/spire/agent.sock"; got != want {
		t.Errorf("the source is %q, want %q", got, want)
	}
}

func TestTheFirstUpdateIsServedWithItsRoots(t *testing.T) {
	prod := root(t, "prod")
	below, err := prod.Intermediate("below")
	if err != nil {
		t.Fatal(err)
	}
	v, err := workloadtest.SVID(below, ca.Leaf{ID: one}, prod.Cert)
	if err != nil {
		t.Fatal(err)
	}
	s := running(t, Options{}, answer(v))
	s.serves(identity.DefaultName, v)
	s.serves(one, v)
	s.trusts(map[string][]*ca.CA{"prod": {prod}})
	if got := len(s.keeper.Pair().TLS.Certificate); got != 2 {
		t.Errorf("%d certificates are served, want the leaf and the intermediate", got)
	}
	h, err := s.keeper.Handle(identity.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Stats(); got.Attempts != 1 || got.Successes != 1 || got.Failures != 0 {
		t.Errorf("counts are %+v, want one attempt and one success", got)
	}
}

func TestOneBundleVerifiesItsOwnTrustDomainOnly(t *testing.T) {
	s := running(t, Options{}, answer(svid(t, root(t, "prod"), one)))
	roots := s.await(identity.RootsName, func(*certs.Secret) bool { return true })
	if v := roots.Validation; len(v.Roots) != 0 || len(v.TrustDomains) != 1 {
		t.Errorf("the roots are %+v, want a bundle for its trust domain", v)
	}
}

func TestTheDefaultIsTheOneThatIsAskedFor(t *testing.T) {
	prod := root(t, "prod")
	first, second := hinted(svid(t, prod, one), "internal"), hinted(svid(t, prod, two), "external")
	for name, c := range map[string]struct {
		opts Options
		want *pb.X509SVID
	}{
		"the first by default": {Options{}, first},
		"by ID":                {Options{DefaultID: spiffeid.RequireFromString(two)}, second},
		"by hint":              {Options{DefaultHint: "external"}, second},
	} {
		t.Run(name, func(t *testing.T) {
			s := running(t, c.opts, answer(first, second))
			s.serves(identity.DefaultName, c.want)
			s.serves(one, first)
			s.serves(two, second)
		})
	}
}

func TestAnUpdateWithoutTheDefaultIsRefused(t *testing.T) {
	prod := root(t, "prod")
	v := hinted(svid(t, prod, two), "external")
	s := running(t, Options{DefaultHint: "external"}, answer(svid(t, prod, one), v))
	s.serves(identity.DefaultName, v)
	s.agent.Answer(answer(hinted(svid(t, prod, one), "internal")))
	s.logs.await(t, "level=WARN", `an update is refused`, `external`, `is not among spiffe://prod/one (hint \"internal\")`)
	s.stillServes(v)
}

func TestARotationIsFollowedRootsFirst(t *testing.T) {
	old, young := root(t, "old"), root(t, "young")
	before := svid(t, old, one)
	s := running(t, Options{}, answer(before))
	s.serves(identity.DefaultName, before)

	both := svid(t, old, one)
	both.Bundle = workloadtest.Bundle(old.Cert, young.Cert)
	s.agent.Answer(answer(both))
	s.serves(identity.DefaultName, both)
	s.trusts(map[string][]*ca.CA{"prod": {old, young}})

	after := svid(t, young, one)
	s.agent.Answer(answer(after))
	s.serves(identity.DefaultName, after)
	s.trusts(map[string][]*ca.CA{"prod": {young}})
}

func TestFederationIsAddedAndTakenAway(t *testing.T) {
	prod, other := root(t, "prod"), root(t, "other")
	v := svid(t, prod, one)
	s := running(t, Options{}, answer(v))
	s.serves(identity.DefaultName, v)

	domains := func(n int) func(*certs.Secret) bool {
		return func(c *certs.Secret) bool { return len(c.Validation.TrustDomains) == n }
	}
	s.agent.Answer(federated(answer(v), "other", other.Cert))
	s.await(identity.RootsName, domains(2))
	s.trusts(map[string][]*ca.CA{"prod": {prod}, "other": {other}})

	s.agent.Answer(answer(v))
	s.await(identity.RootsName, domains(1))
	s.trusts(map[string][]*ca.CA{"prod": {prod}})
}

func TestARefusedUpdateChangesNothing(t *testing.T) {
	prod, other := root(t, "prod"), root(t, "other")
	change := func(f func(*pb.X509SVID)) func(*testing.T) *pb.X509SVIDResponse {
		return func(t *testing.T) *pb.X509SVIDResponse {
			v := svid(t, prod, one)
			f(v)
			return federated(answer(v), "new", other.Cert)
		}
	}
	for name, c := range map[string]struct {
		answer func(*testing.T) *pb.X509SVIDResponse
		want   string
	}{
		"no certificate": {
			func(*testing.T) *pb.X509SVIDResponse { return answer() }, "no SVIDs in response",
		},
		"a certificate that is noise": {change(func(v *pb.X509SVID) { v.X509Svid = []byte("noise") }), "cannot parse DER encoded certificate"},
		"a key that is noise":         {change(func(v *pb.X509SVID) { v.X509SvidKey = []byte("noise") }), "cannot parse DER encoded private key"},
		"another's key":               {change(func(v *pb.X509SVID) { v.X509SvidKey = svid(t, prod, two).GetX509SvidKey() }), "does not match private key"},
		"a bundle that is noise":      {change(func(v *pb.X509SVID) { v.Bundle = []byte("noise") }), "malformed certificate"},
		"an empty bundle":             {change(func(v *pb.X509SVID) { v.Bundle = nil }), `the bundle of trust domain \"prod\" is empty`},
		"another's bundle":            {change(func(v *pb.X509SVID) { v.Bundle = workloadtest.Bundle(other.Cert) }), "certificate signed by unknown authority"},
		"the bundle of another trust domain": {
			change(func(v *pb.X509SVID) { v.SpiffeId = "spiffe://elsewhere/one" }), `there is no bundle of trust domain \"prod\"`,
		},
		"an empty federated bundle": {
			func(t *testing.T) *pb.X509SVIDResponse { return federated(answer(svid(t, prod, one)), "new") },
			`the bundle of trust domain \"new\" is empty`,
		},
		"an ID that is none": {
			func(t *testing.T) *pb.X509SVIDResponse { return answer(svid(t, prod, "https://prod/one")) }, "cannot get leaf certificate SPIFFE ID",
		},
		"an expired default": {
			func(t *testing.T) *pb.X509SVIDResponse {
				return answer(shaped(t, prod, ca.Leaf{ID: one, NotAfter: time.Now().Add(-time.Minute)}), svid(t, prod, two))
			}, "the certificate of spiffe://prod/one expired",
		},
		"one of two that does not chain": {
			func(t *testing.T) *pb.X509SVIDResponse {
				stray, err := workloadtest.SVID(other, ca.Leaf{ID: two}, prod.Cert)
				if err != nil {
					t.Fatal(err)
				}
				return answer(svid(t, prod, one), stray)
			}, "certificate of spiffe://prod/two",
		},
	} {
		t.Run(name, func(t *testing.T) {
			good := svid(t, prod, one)
			s := running(t, Options{}, answer(good))
			s.serves(identity.DefaultName, good)
			s.agent.Answer(c.answer(t))
			s.logs.await(t, "level=WARN", "an update is refused", c.want)
			s.stillServes(good)
			s.trusts(map[string][]*ca.CA{"prod": {prod}})
			h, err := s.keeper.Handle(identity.DefaultName)
			if err != nil {
				t.Fatal(err)
			}
			if err, _ := h.LastFailure(); err == nil || h.Stats().Failures != 1 {
				t.Errorf("the last failure is %v after %d, want the first", err, h.Stats().Failures)
			}
			next := svid(t, prod, one)
			s.agent.Answer(answer(next))
			s.serves(identity.DefaultName, next)
			if got := s.agent.Streams(); got != 1 {
				t.Errorf("%d streams were opened, want 1: a bad update does not end it", got)
			}
		})
	}
}

func TestAnExpiredOneOfSeveralIsLeftOut(t *testing.T) {
	prod := root(t, "prod")
	v := svid(t, prod, one)
	s := running(t, Options{}, answer(v, shaped(t, prod, ca.Leaf{ID: two, NotAfter: time.Now().Add(-time.Minute)})))
	s.serves(identity.DefaultName, v)
	s.logs.await(t, "level=WARN", "certificate is left out", "spiffe_id=spiffe://prod/two", "the certificate of spiffe://prod/two expired")
}

func TestACertificateOfTheFutureIsServedAndToldOf(t *testing.T) {
	v := shaped(t, root(t, "prod"), ca.Leaf{ID: one, NotBefore: time.Now().Add(time.Hour)})
	s := running(t, Options{}, answer(v))
	s.serves(identity.DefaultName, v)
	s.logs.await(t, "level=WARN", "this host's clock", "spiffe://prod/one is not valid before")
}
