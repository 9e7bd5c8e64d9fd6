package csr

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	"outrider/certs/identity"
)

// bench is an authority's parts for answers that are made by hand.
type bench struct {
	t           testing.TB
	root, other *signer
	middle      *signer // below root
	key         crypto.Signer
	now         time.Time // whole seconds, as certificates have
}

func newBench(t testing.TB) *bench {
	root := newRoot(t, "root")
	return &bench{t: t, root: root, other: newRoot(t, "other root"), middle: newSigner(t, "middle", root), key: newKey(t), now: time.Now().Truncate(time.Second)}
}

func (b *bench) wanted() wanted {
	return wanted{key: b.key, id: spiffeid.RequireFromString(workload), now: b.now, exchange: exchange{b.now, b.now}}
}

// leaf is our certificate from root, changed by edits.
func (b *bench) leaf(edits ...edit) string {
	return pemOf(b.root.leaf(b.t, b.key.Public(), workload, edits...))
}

func (b *bench) with(leaf string) []string { return []string{leaf, pemOf(b.root.cert)} }

func uris(b *bench, ids ...string) edit {
	return func(c *x509.Certificate) {
		c.URIs = nil
		for _, id := range ids {
			c.URIs = append(c.URIs, must[*url.URL](b.t)(url.Parse(id)))
		}
	}
}

func usages(u ...x509.ExtKeyUsage) edit { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }

// validity is relative to now.
func validity(now time.Time, from, to time.Duration) edit {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
}

func TestEachWrongAnswerHasItsOwnErrorWithWhatIsWrong(t *testing.T) {
	b := newBench(t)
	good, root := b.leaf(), pemOf(b.root.cert)
	weakRoot := b.other.certFor(t, b.other, must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024)))
	expired := newSigner(t, "expired root", nil, validity(b.now, -2*time.Hour, -time.Hour))
	sha1 := b.weakSignature()
	for _, c := range []struct {
		name  string
		chain []string
		want  error
		texts []string
	}{
		{"nothing", nil, &ShortError{}, []string{"0 elements"}},
		{"the leaf only", []string{good}, &ShortError{}, []string{"1 elements"}},
		{"the leaf is no PEM", []string{"hello", root}, &PEMError{}, []string{"element 1 of the chain's 2", "no certificate"}},
		{"the leaf is cut off", []string{good[:len(good)/2], root}, &PEMError{}, []string{"element 1", "cannot be read"}},
		{"the root is empty", []string{good, ""}, &PEMError{}, []string{"element 2 of the chain's 2"}},
		{"the middle is not DER", []string{good, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", root}, &PEMError{}, []string{"element 2 of the chain's 3"}},
		{"another's key", b.with(pemOf(b.root.leaf(t, newKey(t).Public(), workload))), &KeyError{}, []string{workload, "not for our key", "ECDSA on P-256"}},
		{"the root first", []string{root, good}, &KeyError{}, []string{`"CN=root"`}},
		{"another root", []string{good, pemOf(b.other.cert)}, &ChainError{}, []string{workload, `issued by "CN=root"`, `does not lead to "CN=other root"`}},
		{"the intermediate is missing", []string{pemOf(b.middle.leaf(t, b.key.Public(), workload)), root}, &ChainError{}, []string{`issued by "CN=middle"`, `"CN=root"`}},
		{"the root is a leaf", []string{good, good}, &CAError{}, []string{"stands for an authority and is none"}},
		{"a leaf in the middle", []string{good, pemOf(b.root.leaf(t, newKey(t).Public(), "spiffe://cluster.local/ns/x/sa/y")), root}, &CAError{}, []string{"/ns/x/sa/y", "is none"}},
		{"an authority for a leaf", b.with(b.leaf(func(c *x509.Certificate) { c.IsCA = true })), &CAError{}, []string{"is one of an authority"}},
		{"a leaf that may sign", b.with(b.leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })), &CAError{}, []string{"may sign others"}},
		{"another workload", b.with(b.leaf(uris(b, "spiffe://cluster.local/ns/shop/sa/admin"))), &IDError{}, []string{"sa/admin", workload, "another's"}},
		{"another trust domain", b.with(b.leaf(uris(b, "spiffe://evil/ns/shop/sa/cart"))), &IDError{}, []string{"spiffe://evil/"}},
		{"no ID", b.with(b.leaf(uris(b))), &IDError{}, []string{"for []", workload}},
		{"two IDs", b.with(b.leaf(uris(b, workload, "spiffe://cluster.local/ns/shop/sa/admin"))), &IDError{}, []string{"sa/admin"}},
		{"a URI that is no ID", b.with(b.leaf(uris(b, "https://cart.shop/"))), &IDError{}, []string{"https://cart.shop/"}},
		{"expired", b.with(b.leaf(validity(b.now, -2*time.Hour, -time.Hour))), &TimeError{}, []string{"expired 1h0m0s ago", "our clock says " + stamp(b.now), "the authority's clock is 1h58m0s behind ours, give or take 2m30s (NotBefore)"}},
		{"not valid yet", b.with(b.leaf(validity(b.now, 5*time.Minute, time.Hour))), &TimeError{}, []string{"is not valid for another 5m0s", "the authority's clock is 7m0s ahead of ours, give or take 2m30s (NotBefore)"}},
		{"the root has expired", []string{pemOf(expired.leaf(t, b.key.Public(), workload, validity(b.now, -2*time.Hour, time.Hour))), pemOf(expired.cert)}, &TimeError{}, []string{"authority's certificate", "expired root"}},
		{"for clients only", b.with(b.leaf(usages(x509.ExtKeyUsageClientAuth))), &UsageError{}, []string{"cannot be used for serverAuth"}},
		{"for servers only", b.with(b.leaf(usages(x509.ExtKeyUsageServerAuth))), &UsageError{}, []string{"cannot be used for clientAuth"}},
		{"for signing code", b.with(b.leaf(usages(x509.ExtKeyUsageCodeSigning))), &UsageError{}, []string{"clientAuth and serverAuth"}},
		{"no digital signature", b.with(b.leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), &UsageError{}, []string{"digitalSignature"}},
		{"a weak root", []string{good, pemOf(weakRoot)}, &WeakError{}, []string{"RSA of 1024 bits"}},
		{"a weak signature", b.with(sha1), &WeakError{}, []string{"SHA1"}},
		{"too many intermediates", append([]string{good}, append(manyAuthorities(t, b.root), root)...), &ChainError{}, []string{"21 intermediates"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := b.wanted().check(c.chain)
			if err == nil {
				t.Fatalf("got %v, want a %T", got.KeyPair.ID, c.want)
			}
			if reflect.TypeOf(err) != reflect.TypeOf(c.want) {
				t.Errorf("got a %T, want a %T: %v", err, c.want, err)
			}
			for _, text := range c.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("got %q, want %q in it", err, text)
				}
			}
		})
	}
}

// certFor is s's certificate for another key, by issuer.
func (s *signer) certFor(t testing.TB, issuer *signer, key crypto.Signer) *x509.Certificate {
	t.Helper()
	return sign(t, template(s.cert), issuer, key.Public())
}

// weakSignature is our certificate with sha1WithRSA, which crypto/x509 does not
// sign with any more, in place of sha256WithRSA. The signature does not matter:
// the algorithm is refused before it is looked at.
func (b *bench) weakSignature() string {
	b.t.Helper()
	key := must[*rsa.PrivateKey](b.t)(rsa.GenerateKey(rand.Reader, 2048))
	issuer := &signer{b.middle.certFor(b.t, b.root, key), key}
	der := issuer.leaf(b.t, b.key.Public(), workload).Raw
	sha256, sha1 := []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"), []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05")
	if bytes.Count(der, sha256) != 2 {
		b.t.Fatal("the certificate is not signed with RSA and SHA-256")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bytes.ReplaceAll(der, sha256, sha1)}))
}

func manyAuthorities(t testing.TB, root *signer) []string {
	t.Helper()
	var out []string
	for i := range maxChain + 1 {
		out = append(out, pemOf(newSigner(t, fmt.Sprint("middle ", i), root).cert))
	}
	return out
}

func TestRightAnswersAreTaken(t *testing.T) {
	b := newBench(t)
	renewed := newSigner(t, "root", nil) // the root's new key,
	named := template(renewed.cert)
	named.AuthorityKeyId = b.root.cert.SubjectKeyId
	namedBridge := sign(t, named, b.root, renewed.key.Public()) // naming the old key
	bridge := renewed.certFor(t, b.root, renewed.key)           // certified by its old one
	crossed := b.root.certFor(t, b.other, b.root.key)
	for _, c := range []struct {
		name   string
		chain  []string
		served []*x509.Certificate // beside the leaf
		roots  []*x509.Certificate
	}{
		{"leaf and root", b.with(b.leaf()), nil, certsOf(b.root)},
		{"all intermediates in one element", []string{pemOf(b.middle.leaf(t, b.key.Public(), workload)) + pemOf(b.middle.cert), pemOf(b.root.cert)}, certsOf(b.middle), certsOf(b.root)},
		{"the leaf twice", []string{"", ""}, nil, certsOf(b.root)}, // filled below
		{"the root in the middle too", []string{b.leaf(), pemOf(b.root.cert), pemOf(b.root.cert)}, nil, certsOf(b.root)},
		{"a stranger's root in the middle is not trusted", []string{b.leaf(), pemOf(b.other.cert), pemOf(b.root.cert)}, nil, certsOf(b.root)},
		{"several roots, one twice", []string{b.leaf(), pemOf(b.other.cert, b.root.cert, b.other.cert)}, nil, certsOf(b.other, b.root)},
		{"no root on the wire", []string{pemOf(b.middle.leaf(t, b.key.Public(), workload)), pemOf(b.middle.cert)}, certsOf(b.middle), certsOf(b.middle)},
		{"the root certified by another", []string{b.leaf(), pemOf(crossed), pemOf(b.root.cert)}, []*x509.Certificate{crossed}, certsOf(b.root)},
		{"the root's new key, certified by its old one", []string{pemOf(renewed.leaf(t, b.key.Public(), workload)), pemOf(bridge), pemOf(b.root.cert)}, []*x509.Certificate{bridge}, certsOf(b.root)},
		{"the same with key identifiers", []string{pemOf(renewed.leaf(t, b.key.Public(), workload)), pemOf(namedBridge), pemOf(b.root.cert)}, []*x509.Certificate{namedBridge}, certsOf(b.root)},
		{"no extended key usages", b.with(b.leaf(usages())), nil, certsOf(b.root)},
		{"any extended key usage", b.with(b.leaf(usages(x509.ExtKeyUsageAny))), nil, certsOf(b.root)},
		{"an old root beside", []string{b.leaf(), pemOf(newRoot(t, "old", validity(b.now, -2*time.Hour, -time.Hour)).cert, b.root.cert)}, nil, nil},
	} {
		if c.name == "the leaf twice" {
			leaf := b.leaf()
			c.chain = []string{leaf + leaf, pemOf(b.root.cert)}
		}
		t.Run(c.name, func(t *testing.T) {
			got, err := b.wanted().check(c.chain)
			if err != nil {
				t.Fatal(err)
			}
			served := [][]byte{got.KeyPair.TLS.Leaf.Raw}
			for _, s := range c.served {
				served = append(served, s.Raw)
			}
			if !reflect.DeepEqual(got.KeyPair.TLS.Certificate, served) {
				t.Errorf("%d certificates are served, want %d", len(got.KeyPair.TLS.Certificate), len(served))
			}
			if c.roots != nil && !equal(got.Roots, c.roots) {
				t.Errorf("%d roots, want %d", len(got.Roots), len(c.roots))
			}
		})
	}
}

func template(c *x509.Certificate) *x509.Certificate {
	t := *c
	t.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	return &t
}

func certsOf(all ...*signer) []*x509.Certificate {
	var out []*x509.Certificate
	for _, s := range all {
		out = append(out, s.cert)
	}
	return out
}

func equal(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && strings.Compare(pemOf(a...), pemOf(b...)) == 0
}

func TestIDIsFreeAsFarAsItIsNotGiven(t *testing.T) {
	b := newBench(t)
	td := spiffeid.RequireTrustDomainFromString
	for _, c := range []struct {
		name   string
		domain spiffeid.TrustDomain
		id     string
		ok     bool
	}{
		{"any", spiffeid.TrustDomain{}, "spiffe://anything/x", true},
		{"any of the trust domain", td("cluster.local"), workload, true},
		{"one of another trust domain", td("cluster.local"), "spiffe://anything/x", false},
		{"a trust domain's own", spiffeid.TrustDomain{}, "spiffe://anything", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := b.wanted()
			w.id, w.trustDomain = spiffeid.ID{}, c.domain
			got, err := w.check(b.with(b.leaf(uris(b, c.id))))
			if (err == nil) != c.ok || err == nil && got.KeyPair.ID.String() != c.id {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestChainToAKnownRootIsTakenWithThatRoot(t *testing.T) {
	b := newBench(t)
	w := b.wanted()
	w.known = certsOf(b.root)
	got, err := w.check([]string{b.leaf(), pemOf(b.other.cert)})
	if err != nil {
		t.Fatal(err)
	}
	if !equal(got.Roots, certsOf(b.other, b.root)) {
		t.Errorf("%d roots, want what came and what is known", len(got.Roots))
	}
	w.known = certsOf(newRoot(t, "third"))
	var chain *ChainError
	if _, err = w.check([]string{b.leaf(), pemOf(b.other.cert)}); !errors.As(err, &chain) || len(chain.Roots) != 2 {
		t.Errorf("got %v, want a ChainError that names both", err)
	}
}

func TestBundleIsWhatAClientKnows(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	other := newRoot(t, "other")
	a.answers(func(csr *x509.CertificateRequest) ([]string, error) {
		return []string{pemOf(a.root.leaf(t, csr.PublicKey, workload)), pemOf(other.cert)}, nil
	})
	got, err := a.client().Issue(t.Context())
	if err != nil || !equal(got.Roots, certsOf(other, a.root)) {
		t.Errorf("with the bundle: %v, %v", got, err)
	}
	file := writeFile(t, "", pemOf(a.root.cert))
	_, err = a.client(func(o *Options) { o.Trust = Trust{RootFile: file} }).Issue(t.Context())
	if chain := (*ChainError)(nil); !errors.As(err, &chain) {
		t.Errorf("without it: got %v, want a ChainError", err)
	}
}

func TestSkewAcceptsALittleOfTheFutureAndNothingOfThePast(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name     string
		skew     time.Duration
		from, to time.Duration
		ok       bool
	}{
		{"no skew, a minute ahead", 0, time.Minute, time.Hour, false},
		{"less than skew ahead", 2 * time.Minute, time.Minute, time.Hour, true},
		{"more than skew ahead", 30 * time.Second, time.Minute, time.Hour, false},
		{"expired within skew", 2 * time.Minute, -time.Hour, -time.Minute, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := b.wanted()
			w.skew = c.skew
			_, err := w.check(b.with(b.leaf(validity(b.now, c.from, c.to))))
			var late *TimeError
			if (err == nil) != c.ok || err != nil && !errors.As(err, &late) {
				t.Errorf("got %v, want ok %v", err, c.ok)
			}
		})
	}
}

func TestTimeErrorIsExplainedOnlyByAClockThatFits(t *testing.T) {
	b := newBench(t)
	leaf := b.root.leaf(t, b.key.Public(), workload, validity(b.now, time.Hour, 2*time.Hour))
	for _, c := range []struct {
		name  string
		clock identity.Clock
		want  bool
	}{
		{"not known", identity.Clock{}, false},
		{"the same", identity.Clock{From: fromDate, Margin: time.Second}, false},
		{"within its validity", identity.Clock{From: fromDate, Margin: time.Second, Ahead: 90 * time.Minute}, true},
		{"before it", identity.Clock{From: fromDate, Margin: time.Second, Ahead: 30 * time.Minute}, false},
		{"just before it", identity.Clock{From: fromDate, Margin: time.Minute, Ahead: time.Hour - time.Second}, true},
		{"after it", identity.Clock{From: fromDate, Margin: time.Second, Ahead: 3 * time.Hour}, false},
	} {
		if got := (&TimeError{Cert: leaf, Now: b.now, Clock: c.clock}).explained(); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestClocksThatDifferMakeATimeErrorOurs(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	ahead := 10 * time.Minute
	a.answers(func(csr *x509.CertificateRequest) ([]string, error) {
		return []string{pemOf(a.root.leaf(t, csr.PublicKey, workload, validity(time.Now(), ahead-2*time.Minute, ahead+time.Hour))), pemOf(a.root.cert)}, nil
	})
	_, err := a.client().Issue(t.Context())
	failed(t, err, StageAnswer, Ours, codes.DataLoss)
	a.answers(func(csr *x509.CertificateRequest) ([]string, error) {
		return []string{pemOf(a.root.leaf(t, csr.PublicKey, workload, validity(time.Now(), -2*time.Minute, -time.Minute))), pemOf(a.root.cert)}, nil
	})
	_, err = a.client().Issue(t.Context())
	e := failed(t, err, StageAnswer, Authority, codes.DataLoss)
	var late *TimeError
	if !errors.As(e, &late) || !late.IsLeaf || late.Clock.From != fromNotBefore {
		t.Errorf("got %+v", late)
	}
}

func FuzzAnswer(f *testing.F) {
	b := newBench(f)
	leaf, root := b.leaf(), pemOf(b.root.cert)
	below := pemOf(b.middle.leaf(f, b.key.Public(), workload))
	f.Add(leaf, "", root)
	f.Add(below, pemOf(b.middle.cert), root)
	f.Add(below+pemOf(b.middle.cert), root, root+pemOf(b.other.cert))
	f.Add(leaf, "-----BEGIN CERTIFICATE-----", "-----END")
	w := b.wanted()
	// The promise: no panic, and whatever is taken has our key and our ID and
	// leads to the roots that it gives.
	f.Fuzz(func(t *testing.T, first, middle, last string) {
		chain := []string{first, middle, last}
		if middle == "" {
			chain = []string{first, last}
		}
		got, err := w.check(chain)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error says nothing")
			}
			return
		}
		if got.KeyPair.ID != w.id || !b.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.KeyPair.TLS.Leaf.PublicKey) {
			t.Errorf("took %s", got.KeyPair.ID)
		}
		if err := identity.VerifyChain(got.KeyPair, got.Roots); err != nil {
			t.Errorf("took a chain that does not hold: %v", err)
		}
	})
}
