package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"outrider/certs/ca"
	"outrider/certs/identity"
)

func domainRoot(t *testing.T, name string) *ca.CA {
	t.Helper()
	c, err := ca.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rootCerts(all ...*ca.CA) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range all {
		out = append(out, c.Cert)
	}
	return out
}

// bundleJSON is SPIFFE's document.
func bundleJSON(t *testing.T, td spiffeid.TrustDomain, roots ...*ca.CA) []byte {
	t.Helper()
	text, err := spiffebundle.FromX509Authorities(td, rootCerts(roots...)).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bundleFiles is a running source of bundle files.
type bundleFiles struct {
	*testing.T
	dir    string
	keeper *identity.Keeper
	log    *logBuffer
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// runBundleFiles watches those files, named relative to dir.
func runBundleFiles(t *testing.T, dir string, files map[string]string) *bundleFiles {
	t.Helper()
	before := goleak.IgnoreCurrent()
	b := &bundleFiles{T: t, dir: dir, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(b.log, nil))
	b.keeper = identity.NewKeeper(identity.Options{Log: log})
	by := map[spiffeid.TrustDomain]string{}
	for td, name := range files {
		by[spiffeid.RequireTrustDomainFromString(td)] = filepath.Join(dir, name)
	}
	source := identity.NewBundleFiles(by, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, b.keeper) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		goleak.VerifyNone(t, before)
	})
	return b
}

// replaceFile replaces a file as a careful writer does.
func replaceFile(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	next := filepath.Join(dir, "."+name+".new")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// trusted waits until the trust domain has exactly those roots.
func (b *bundleFiles) trusted(td string, want ...*ca.CA) {
	b.Helper()
	h, err := b.keeper.Handle(identity.RootsName)
	if err != nil {
		b.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		changed := h.Changed()
		got := b.keeper.Trusted(spiffeid.RequireTrustDomainFromString(td))
		if sameRoots(got, want) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			b.Fatalf("%d roots are trusted for %q, want %d; log:\n%s", len(got), td, len(want), b.log)
		}
	}
}

// refused waits until some file was refused, and says which reason is shown.
func (b *bundleFiles) refused(want string) {
	b.Helper()
	h, err := b.keeper.Handle(identity.RootsName)
	if err != nil {
		b.Fatal(err)
	}
	poll := time.NewTicker(time.Millisecond) // a refusal changes no secret
	defer poll.Stop()
	deadline := time.After(20 * time.Second)
	for {
		last, _ := h.LastFailure()
		if last != nil && strings.Contains(last.Error(), want) {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			b.Fatalf("the last failure is %v, want one with %q; log:\n%s", last, want, b.log)
		}
	}
}

func sameRoots(got []*x509.Certificate, want []*ca.CA) bool {
	if len(got) != len(want) {
		return false
	}
	has := map[string]bool{}
	for _, c := range got {
		has[string(c.Raw)] = true
	}
	for _, c := range want {
		if !has[string(c.Cert.Raw)] {
			return false
		}
	}
	return true
}

func TestBundleFilesAreReadInBothFormsAndFollowed(t *testing.T) {
	dir := t.TempDir()
	one, two, three := domainRoot(t, "one"), domainRoot(t, "two"), domainRoot(t, "three")
	replaceFile(t, dir, "a.pem", one.PEM())
	replaceFile(t, dir, "b.json", bundleJSON(t, spiffeid.RequireTrustDomainFromString("b"), two))
	b := runBundleFiles(t, dir, map[string]string{"a": "a.pem", "b": "b.json"})
	b.trusted("a", one)
	b.trusted("b", two)

	replaceFile(t, dir, "a.pem", append(one.PEM(), three.PEM()...))
	b.trusted("a", one, three)
	replaceFile(t, dir, "b.json", bundleJSON(t, spiffeid.RequireTrustDomainFromString("b"), two, three))
	b.trusted("b", two, three)
	replaceFile(t, dir, "b.json", three.PEM()) // the form is the content's
	b.trusted("b", three)
	b.trusted("a", one, three)
	for _, r := range b.keeper.Roots() {
		if want := "file " + filepath.Join(dir, map[string]string{"a": "a.pem", "b": "b.json"}[r.TrustDomain.Name()]); len(r.From) != 1 || r.From[0] != want {
			t.Errorf("root %q is from %q, want %q", r.Cert.Subject, r.From, want)
		}
	}
}

func TestAFileForTwoTrustDomainsIsTrustedForBoth(t *testing.T) {
	dir := t.TempDir()
	one, two := domainRoot(t, "one"), domainRoot(t, "two")
	replaceFile(t, dir, "both.pem", one.PEM())
	b := runBundleFiles(t, dir, map[string]string{"a": "both.pem", "b": "both.pem"})
	b.trusted("a", one)
	b.trusted("b", one)
	replaceFile(t, dir, "both.pem", two.PEM())
	b.trusted("a", two)
	b.trusted("b", two)
}

func TestABadBundleFileLeavesWhatItSaidBefore(t *testing.T) {
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"empty":                  {nil, "there is no certificate in it"},
		"noise":                  {[]byte("noise"), "there is no certificate in it"},
		"half a certificate":     {[]byte("-----BEGIN CERTIFICATE-----\nMII"), "PEM block 1 cannot be read"},
		"half a document":        {[]byte(`{"keys": [`), "unable to parse JWKS"},
		"a document of nothing":  {[]byte(`{}`), "no authorities found"},
		"a document without any": {[]byte(`{"keys":[]}`), "no X.509 authority"},
		"a document of another kind": {
			[]byte(`{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256","x":"x","y":"y"}]}`), "unable to parse JWKS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			one, two, other := domainRoot(t, "one"), domainRoot(t, "two"), domainRoot(t, "other")
			replaceFile(t, dir, "a", one.PEM())
			replaceFile(t, dir, "b", other.PEM())
			b := runBundleFiles(t, dir, map[string]string{"a": "a", "b": "b"})
			b.trusted("a", one)
			b.trusted("b", other)
			replaceFile(t, dir, "a", c.text)
			b.refused("bundle file " + filepath.Join(dir, "a") + ": ")
			b.refused(c.want)
			b.trusted("a", one)
			b.trusted("b", other)
			replaceFile(t, dir, "b", two.PEM()) // so that all files are read again
			b.trusted("b", two)
			b.trusted("a", one)
			replaceFile(t, dir, "a", two.PEM())
			b.trusted("a", two)
			if got := strings.Count(b.log.String(), "level=WARN"); got != 1 {
				t.Errorf("it was told %d times, want once:\n%s", got, b.log)
			}
		})
	}
}

func TestABundleFileMayComeLateAndGo(t *testing.T) {
	dir := t.TempDir()
	one, two := domainRoot(t, "one"), domainRoot(t, "two")
	b := runBundleFiles(t, dir, map[string]string{"a": "a"})
	b.refused("no such file")
	replaceFile(t, dir, "a", one.PEM())
	b.trusted("a", one)
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	b.refused("no such file")
	b.trusted("a", one)
	replaceFile(t, dir, "a", two.PEM())
	b.trusted("a", two)
}

func TestAKubernetesSwapOfAllFilesIsSeen(t *testing.T) {
	dir := t.TempDir()
	one, two := domainRoot(t, "one"), domainRoot(t, "two")
	swap := func(version string, r *ca.CA) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, filepath.Join(dir, version), "a", r.PEM())
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1", one)
	if err := os.Symlink("..data/a", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	b := runBundleFiles(t, dir, map[string]string{"a": "a"})
	b.trusted("a", one)
	swap("..2", two)
	b.trusted("a", two)
}

func TestADirectoryThatIsMissingIsTriedAgainAndHoldsUpNoOther(t *testing.T) {
	dir := t.TempDir()
	one, two := domainRoot(t, "one"), domainRoot(t, "two")
	late := filepath.Join(dir, "late")
	replaceFile(t, dir, "a", one.PEM())
	synctest.Test(t, func(t *testing.T) {
		k := identity.NewKeeper(identity.Options{})
		source := identity.NewBundleFiles(map[spiffeid.TrustDomain]string{
			spiffeid.RequireTrustDomainFromString("a"): filepath.Join(dir, "a"),
			spiffeid.RequireTrustDomainFromString("b"): filepath.Join(late, "b"),
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- source.Run(ctx, k) }()
		synctest.Wait()
		trusts := func(td string, want ...*ca.CA) {
			t.Helper()
			if got := k.Trusted(spiffeid.RequireTrustDomainFromString(td)); !sameRoots(got, want) {
				t.Errorf("%d roots are trusted for %q, want %d", len(got), td, len(want))
			}
		}
		trusts("a", one)
		trusts("b")
		replaceFile(t, dir, "a", two.PEM())
		time.Sleep(6 * time.Second)
		synctest.Wait()
		trusts("a", two) // though nothing can be watched
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	// With the directory there, it is as for any other: real time, for inotify.
	if err := os.Mkdir(late, 0o700); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, late, "b", one.PEM())
	b := runBundleFiles(t, dir, map[string]string{"a": "a", "b": "late/b"})
	b.trusted("b", one)
	b.trusted("a", two)
}

func TestAForeignBundleAloneVouchesForItsOwnDomainOnly(t *testing.T) {
	dir := t.TempDir()
	one := domainRoot(t, "one")
	replaceFile(t, dir, "a", one.PEM())
	b := runBundleFiles(t, dir, map[string]string{"a": "a"})
	b.trusted("a", one)
	h, err := b.keeper.Handle(identity.RootsName)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Current()
	if err != nil {
		t.Fatal(err)
	}
	if v := s.Validation; len(v.Roots) != 0 || len(v.TrustDomains) != 1 {
		t.Errorf("the roots are %+v, want a bundle for its trust domain", v)
	}
}

// FuzzParseBundle: whatever a file has, it is refused or has roots.
func FuzzParseBundle(f *testing.F) {
	td := spiffeid.RequireTrustDomainFromString("a")
	authority, err := ca.New("a")
	if err != nil {
		f.Fatal(err)
	}
	document, err := spiffebundle.FromX509Authorities(td, rootCerts(authority)).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{authority.PEM(), document, nil, []byte(" {"), []byte(`{"keys":[{"use":"x509-svid","kty":"EC","x5c":[]}]}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		roots, err := identity.ParseBundle(td, text)
		if (err == nil) != (len(roots) > 0) {
			t.Errorf("%d roots and %v", len(roots), err)
		}
	})
}
