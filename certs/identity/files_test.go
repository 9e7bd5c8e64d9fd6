package identity_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

// fileSet is a directory as Kubernetes mounts a secret: the names are links,
// and all lead by way of one, which is replaced.
type fileSet struct {
	*testing.T
	dir     string
	version int
}

func newFileSet(t *testing.T) *fileSet {
	t.Helper()
	f := &fileSet{T: t, dir: t.TempDir()}
	for _, name := range []string{"chain", "key", "roots"} {
		if err := os.Symlink(filepath.Join("..data", name), f.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fileSet) path(name string) string { return filepath.Join(f.dir, name) }

// swap puts a certificate with its key and roots in place of what was there.
func (f *fileSet) swap(chain, key, roots []byte) {
	f.Helper()
	f.version++
	next := ".." + strings.Repeat("x", f.version)
	if err := os.Mkdir(f.path(next), 0o700); err != nil {
		f.Fatal(err)
	}
	for name, text := range map[string][]byte{"chain": chain, "key": key, "roots": roots} {
		if err := os.WriteFile(filepath.Join(f.path(next), name), text, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink(next, f.path("..data_tmp")); err != nil {
		f.Fatal(err)
	}
	if err := os.Rename(f.path("..data_tmp"), f.path("..data")); err != nil {
		f.Fatal(err)
	}
}

func leafOf(t *testing.T, root *ca.CA, l ca.Leaf) *ca.Issued {
	t.Helper()
	if l.ID == "" {
		l.ID = workload
	}
	i, err := root.Issue(l)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// followed is a running Files.
type followed struct {
	*testing.T
	keeper *identity.Keeper
	log    *logBuffer
}

func (f *fileSet) follow(change ...func(*identity.FilesOptions)) *followed {
	f.Helper()
	before := goleak.IgnoreCurrent()
	out := &followed{T: f.T, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(out.log, nil))
	out.keeper = identity.NewKeeper(identity.Options{Log: log})
	opts := identity.FilesOptions{Chain: f.path("chain"), Key: f.path("key"), Roots: f.path("roots"), Log: log}
	for _, c := range change {
		c(&opts)
	}
	source := identity.NewFiles(opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, out.keeper) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("Run: %v", err)
		}
		goleak.VerifyNone(f.T, before)
	})
	return out
}

// until waits for what is true some time after a change of files.
func until(t *testing.T, what string, log *logBuffer, true func() bool) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	deadline := time.After(20 * time.Second)
	for !true() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s; log:\n%s", what, log)
		}
	}
}

func (f *followed) serves(want *ca.Issued) {
	f.Helper()
	until(f.T, "the certificate is served", f.log, func() bool {
		p := f.keeper.Pair()
		return p != nil && p.TLS.Leaf.Equal(want.Cert)
	})
}

func (f *followed) refuses(reason string) {
	f.Helper()
	h, err := f.keeper.Handle(identity.DefaultName)
	if err != nil {
		f.Fatal(err)
	}
	until(f.T, "it is refused for "+reason, f.log, func() bool {
		last, _ := h.LastFailure()
		return last != nil && strings.Contains(last.Error(), reason)
	})
}

func TestASwapOfFilesIsServedAndWhatDoesNotFitIsNot(t *testing.T) {
	f := newFileSet(t)
	root, other := domainRoot(t, "root"), domainRoot(t, "other")
	first, second, third := leafOf(t, root, ca.Leaf{}), leafOf(t, root, ca.Leaf{}), leafOf(t, other, ca.Leaf{})
	r := f.follow()
	r.refuses("no such file")
	f.swap(first.ChainPEM, first.KeyPEM, root.PEM())
	r.serves(first)
	for reason, swap := range map[string]func(){
		"does not fit":                  func() { f.swap(second.ChainPEM, first.KeyPEM, root.PEM()) },
		"there is no certificate in it": func() { f.swap(second.ChainPEM, second.KeyPEM, nil) },
		"no private key":                func() { f.swap(second.ChainPEM, nil, root.PEM()) },
		"PEM block 1 cannot be read":    func() { f.swap([]byte("-----BEGIN CERTIFICATE-----\nMII"), second.KeyPEM, root.PEM()) },
		"signed by unknown authority":   func() { f.swap(third.ChainPEM, third.KeyPEM, root.PEM()) },
		"has no SPIFFE ID":              func() { n := leafOf(t, root, ca.Leaf{ID: "http://x"}); f.swap(n.ChainPEM, n.KeyPEM, root.PEM()) },
		"expired 1m": func() {
			n := leafOf(t, root, ca.Leaf{NotAfter: time.Now().Add(-time.Minute)})
			f.swap(n.ChainPEM, n.KeyPEM, root.PEM())
		},
		"is not valid before": func() {
			n := leafOf(t, root, ca.Leaf{NotBefore: time.Now().Add(time.Hour)})
			f.swap(n.ChainPEM, n.KeyPEM, root.PEM())
		},
	} {
		swap()
		r.refuses(reason)
		r.serves(first)
		if got := r.keeper.Trusted(spiffeid.RequireTrustDomainFromString("prod")); !sameRoots(got, []*ca.CA{root}) {
			t.Errorf("%s: %d roots are trusted, want the first one", reason, len(got))
		}
	}
	f.swap(third.ChainPEM, third.KeyPEM, append(root.PEM(), other.PEM()...))
	r.serves(third)
	h, err := r.keeper.Handle(identity.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	if last, _ := h.LastFailure(); last != nil {
		t.Errorf("the last failure is still %v", last)
	}
	if s := secret(t, r.keeper, identity.DefaultName); s.KeyPair.CertPath != f.path("chain") || s.From != "file "+f.path("chain") {
		t.Errorf("it is from %q, %q; want the chain's file", s.KeyPair.CertPath, s.From)
	}
}

func TestAFailureIsOverWhenTheSameFilesAreBack(t *testing.T) {
	f := newFileSet(t)
	root := domainRoot(t, "root")
	leaf := leafOf(t, root, ca.Leaf{})
	f.swap(leaf.ChainPEM, leaf.KeyPEM, root.PEM())
	r := f.follow()
	r.serves(leaf)
	f.swap(leaf.ChainPEM, nil, root.PEM())
	r.refuses("no private key")
	f.swap(leaf.ChainPEM, leaf.KeyPEM, root.PEM())
	h, err := r.keeper.Handle(identity.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the failure is over", r.log, func() bool { last, _ := h.LastFailure(); return last == nil })
	if h.Revision() != 1 {
		t.Errorf("the certificate was published %d times, want once", h.Revision())
	}
}

func TestFilesOfAnotherTrustDomainAreRefused(t *testing.T) {
	f := newFileSet(t)
	root := domainRoot(t, "root")
	leaf := leafOf(t, root, ca.Leaf{})
	f.swap(leaf.ChainPEM, leaf.KeyPEM, root.PEM())
	r := f.follow(func(o *identity.FilesOptions) { o.TrustDomain = spiffeid.RequireTrustDomainFromString("stage") })
	r.refuses(workload + ` is not of trust domain "stage"`)
	if got := r.keeper.Roots(); len(got) != 0 {
		t.Errorf("%d roots are trusted, want none", len(got))
	}
}

func TestFilesThatAreNotValidYetAreServedWhenTheyAre(t *testing.T) {
	f := newFileSet(t)
	root := domainRoot(t, "root")
	leaf := leafOf(t, root, ca.Leaf{NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)})
	f.swap(leaf.ChainPEM, leaf.KeyPEM, root.PEM())
	clock := &wallClock{}
	r := f.follow(func(o *identity.FilesOptions) { o.Now = clock.Now })
	r.refuses("is not valid before")
	clock.jump(90 * time.Minute)
	replaceFile(t, f.dir, "neighbour", nil) // a look before the minute is over
	r.serves(leaf)
}

func TestExpiryOfFilesIsSaid(t *testing.T) {
	f := newFileSet(t)
	root := domainRoot(t, "root")
	leaf := leafOf(t, root, ca.Leaf{NotBefore: time.Now().Add(-3 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	f.swap(leaf.ChainPEM, leaf.KeyPEM, root.PEM())
	clock := &wallClock{}
	clock.jump(-2 * time.Hour) // it is good for this one alone
	r := f.follow(func(o *identity.FilesOptions) { o.Now = clock.Now })
	r.serves(leaf)
	until(t, "expiry is said", r.log, func() bool { return lines(r.log, `level=ERROR msg="the certificate has expired`) == 1 })
	if err := r.keeper.Expired(); err == nil {
		t.Error("expired is nil")
	}
}

func TestFilesInADirectoryThatIsMissingAreTriedAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := identity.NewKeeper(identity.Options{})
		at := func(name string) string { return filepath.Join(dir, "late", name) }
		secrets := identity.NewFileSecrets(identity.FileSecretsOptions{})
		source := identity.NewFiles(identity.FilesOptions{Chain: at("chain"), Key: at("key"), Roots: at("roots")})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- source.Run(ctx, k) }()
		go func() { ended <- secrets.Run(ctx) }()
		synctest.Wait()
		late, err := secrets.Handle("file-root:" + at("roots")) // while Run runs
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		own, _ := k.Handle(identity.DefaultName)
		for _, h := range []*certs.Handle{late, own} {
			if last, _ := h.LastFailure(); last == nil || !strings.Contains(last.Error(), "no such file") {
				t.Errorf("%s: the last failure is %v, want that there is no file", h.Ref().Name, last)
			}
		}
		if got := late.Stats(); got.Rejected != 1 {
			t.Errorf("stats are %+v, want one refusal: nothing has changed", got)
		}
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// secretFiles are running FileSecrets.
type secretFiles struct {
	*testing.T
	files *identity.FileSecrets
	log   *logBuffer
}

func runSecrets(t *testing.T, allowed ...string) *secretFiles {
	t.Helper()
	before := goleak.IgnoreCurrent()
	s := &secretFiles{T: t, log: &logBuffer{}}
	s.files = identity.NewFileSecrets(identity.FileSecretsOptions{Allowed: allowed, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.files.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		goleak.VerifyNone(t, before)
	})
	return s
}

func (s *secretFiles) handle(name string) *certs.Handle {
	s.Helper()
	h, err := s.files.Handle(name)
	if err != nil {
		s.Fatal(err)
	}
	return h
}

func (s *secretFiles) current(h *certs.Handle, good func(*certs.Secret) bool) {
	s.Helper()
	until(s.T, h.Ref().Name, s.log, func() bool {
		v, err := h.Current()
		return err == nil && good(v)
	})
}

func (s *secretFiles) refuses(h *certs.Handle, reason string) {
	s.Helper()
	until(s.T, "it is refused for "+reason, s.log, func() bool {
		last, _ := h.LastFailure()
		return last != nil && strings.Contains(last.Error(), reason)
	})
}

func TestSecretsNamedByTheirFilesFollowThem(t *testing.T) {
	f := newFileSet(t)
	root, next := domainRoot(t, "root"), domainRoot(t, "next")
	first, second := leafOf(t, root, ca.Leaf{}), leafOf(t, next, ca.Leaf{})
	s := runSecrets(t)
	pair, roots := s.handle("file-cert:"+f.path("chain")+"~"+f.path("key")), s.handle("file-root:"+f.path("roots"))
	is := func(want *ca.Issued) func(*certs.Secret) bool {
		return func(v *certs.Secret) bool { return v.KeyPair.TLS.Leaf.Equal(want.Cert) }
	}
	trusts := func(want ...*ca.CA) func(*certs.Secret) bool {
		return func(v *certs.Secret) bool { return sameRoots(v.Validation.Roots, want) }
	}
	f.swap(first.ChainPEM, first.KeyPEM, root.PEM())
	s.current(pair, is(first))
	s.current(roots, trusts(root))
	f.swap(second.ChainPEM, first.KeyPEM, append(root.PEM(), next.PEM()...))
	s.refuses(pair, "does not fit")
	s.current(roots, trusts(root, next))
	s.current(pair, is(first))
	f.swap(second.ChainPEM, second.KeyPEM, next.PEM())
	s.current(pair, is(second))
	s.current(roots, trusts(next))
	if again := s.handle(roots.Ref().Name); again != roots {
		t.Error("the same name has another handle")
	}
	if got := s.files.Handles(); len(got) != 2 || got[0] != pair || got[1] != roots {
		t.Errorf("handles are %v, want both by name", got)
	}
}

func TestTheRootsOfTheSystemHaveAName(t *testing.T) {
	s := runSecrets(t, t.TempDir()) // it is always allowed
	s.current(s.handle("file-root:system"), func(v *certs.Secret) bool { return len(v.Validation.Roots) > 0 })
}

func TestNamesOfNoFilesAreRefused(t *testing.T) {
	s := identity.NewFileSecrets(identity.FileSecretsOptions{})
	for _, name := range []string{"", "default", "file-cert:", "file-cert:~", "file-cert:a", "file-cert:a~", "file-cert:~b", "file-root:", "file-key:a"} {
		if h, err := s.Handle(name); err == nil || !strings.Contains(err.Error(), `secret "`+name+`"`) {
			t.Errorf("%q gives %v, %v; want an error with the name", name, h, err)
		}
	}
}

func TestOnlyAThousandNamesAreServed(t *testing.T) {
	s := identity.NewFileSecrets(identity.FileSecretsOptions{})
	for i := range 1001 {
		_, err := s.Handle("file-root:/" + strings.Repeat("x", i+1))
		if refused := err != nil; refused != (i == 1000) {
			t.Fatalf("name %d: %v", i, err)
		}
	}
}

func TestFilesOutsideOfTheAllowedDirectoriesAreNotServed(t *testing.T) {
	root := domainRoot(t, "root")
	allowed, outside := t.TempDir(), t.TempDir()
	replaceFile(t, outside, "secret.pem", root.PEM())
	replaceFile(t, allowed, "good.pem", root.PEM())
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(allowed, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join(outside, "secret.pem"), "link.pem")
	link(outside, "dir")
	link("good.pem", "inside.pem")
	s := runSecrets(t, filepath.Join(outside, "nothing"), allowed)
	for _, path := range []string{
		filepath.Join(outside, "secret.pem"), filepath.Join(allowed, "link.pem"), filepath.Join(allowed, "dir", "secret.pem"),
		filepath.Join(allowed, "..", filepath.Base(outside), "secret.pem"), allowed + "-too", "relative.pem",
	} {
		if h, err := s.files.Handle("file-root:" + path); err == nil || !strings.Contains(err.Error(), "in none of the directories that are allowed") {
			t.Errorf("%s gives %v, %v; want a refusal", path, h, err)
		}
	}
	if h, err := s.files.Handle("file-cert:" + filepath.Join(allowed, "good.pem") + "~" + filepath.Join(outside, "secret.pem")); err == nil {
		t.Errorf("a key outside gives %v", h)
	}
	trusted := func(v *certs.Secret) bool { return sameRoots(v.Validation.Roots, []*ca.CA{root}) }
	h := s.handle("file-root:" + filepath.Join(allowed, "good.pem"))
	s.current(h, trusted)
	s.current(s.handle("file-root:"+filepath.Join(allowed, "inside.pem")), trusted)
	t.Chdir(allowed)
	s.current(s.handle("file-root:./good.pem"), trusted)

	// What a name leads to may change after it was allowed.
	other := domainRoot(t, "other")
	replaceFile(t, outside, "secret.pem", other.PEM())
	if err := os.Rename(filepath.Join(allowed, "link.pem"), filepath.Join(allowed, "good.pem")); err != nil {
		t.Fatal(err)
	}
	s.refuses(h, "in none of the directories that are allowed")
	s.current(h, trusted)
}

func TestWhatIsNoPlainFileIsNotRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "device")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 4<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	s := runSecrets(t)
	s.refuses(s.handle("file-root:"+filepath.Join(dir, "device")), "not a file")
	s.refuses(s.handle("file-root:"+filepath.Join(dir, "large")), "more than 4194304 bytes")
	s.refuses(s.handle("file-root:"+dir), "not a file")
}
