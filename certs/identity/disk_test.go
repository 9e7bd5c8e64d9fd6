package identity_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

// kept are certificates for a disk, each of a root of its own.
type kept struct {
	*testing.T
	dir string
}

func (k kept) issue(name string, from, to time.Time) *identity.Issued {
	k.Helper()
	root := domainRoot(k.T, name)
	leaf, err := root.Issue(ca.Leaf{ID: workload, NotBefore: from, NotAfter: to})
	if err != nil {
		k.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(leaf.ChainPEM, leaf.KeyPEM)
	if err != nil {
		k.Fatal(err)
	}
	return &identity.Issued{KeyPair: pair, Roots: rootCerts(root)}
}

func (k kept) disk() *identity.Disk { return &identity.Disk{Dir: k.dir} }

func (k kept) save(i *identity.Issued) {
	k.Helper()
	if err := k.disk().Save(i); err != nil {
		k.Fatal(err)
	}
}

// has checks what Load reads, and that Certificate and the plain names agree.
func (k kept) has(want *identity.Issued) {
	k.Helper()
	got, err := k.disk().Load()
	if err != nil {
		k.Fatal(err)
	}
	if want == nil {
		if got != nil {
			k.Fatalf("%s is kept, want nothing", got.KeyPair.TLS.Leaf.Issuer)
		}
		return
	}
	if got == nil || !got.KeyPair.TLS.Leaf.Equal(want.KeyPair.TLS.Leaf) || !got.Roots[0].Equal(want.Roots[0]) {
		k.Fatalf("%+v is kept, want the certificate of %s", got, want.KeyPair.TLS.Leaf.Issuer)
	}
	c, err := k.disk().Certificate()
	if err != nil || c == nil || !c.Leaf.Equal(want.KeyPair.TLS.Leaf) {
		k.Fatalf("the certificate to prove it with is %+v, %v; want that of %s", c, err, want.KeyPair.TLS.Leaf.Issuer)
	}
}

// plain puts the files of another agent.
func (k kept) plain(i *identity.Issued) {
	k.Helper()
	other := kept{k.T, k.TempDir()}
	other.save(i)
	for _, name := range []string{"key.pem", "cert-chain.pem", "root-cert.pem"} {
		text, err := os.ReadFile(filepath.Join(other.dir, name))
		if err != nil {
			k.Fatal(err)
		}
		replaceFile(k.T, k.dir, name, text)
	}
}

func TestWhatWasSavedIsKeptForItsOwnerAlone(t *testing.T) {
	k := kept{t, filepath.Join(t.TempDir(), "new", "certs")}
	k.has(nil)
	for _, name := range []string{"one", "two", "three"} {
		i := k.issue(name, time.Now(), time.Now().Add(time.Hour))
		k.save(i)
		k.has(i)
	}
	if err := filepath.WalkDir(k.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		want := map[fs.FileMode]fs.FileMode{0: 0o600, fs.ModeDir: fs.ModeDir | 0o700}[d.Type()]
		if d.Type() != fs.ModeSymlink && info.Mode() != want {
			t.Errorf("%s is %s, want %s", path, info.Mode(), want)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestACrashAtAnyPointOfSaveLeavesTheOldOrTheNew(t *testing.T) {
	now := time.Now()
	maker := kept{t, ""}
	old, middle, fresh := maker.issue("old", now, now.Add(time.Hour)), maker.issue("middle", now, now.Add(time.Hour)), maker.issue("new", now, now.Add(time.Hour))
	for name, before := range map[string]func(k kept) *identity.Issued{
		"nothing before":      func(kept) *identity.Issued { return nil },
		"our own before":      func(k kept) *identity.Issued { k.save(old); return old },
		"two of ours before":  func(k kept) *identity.Issued { k.save(old); k.save(middle); return middle },
		"another agent's":     func(k kept) *identity.Issued { k.plain(old); return old },
		"another's over ours": func(k kept) *identity.Issued { k.save(old); k.plain(middle); return middle },
		"after another crash": func(k kept) *identity.Issued { k.save(old); k.crash(middle, 6); return old },
	} {
		t.Run(name, func(t *testing.T) {
			newer := false // once the new is there, it is at every later point
			for n := 0; ; n++ {
				k := kept{t, t.TempDir()}
				was := before(k)
				if !k.crash(fresh, n) {
					if n < 8 || !newer {
						t.Errorf("there are %d points, and the new one is kept: %v", n, newer)
					}
					return
				}
				got, err := k.disk().Load()
				if err != nil {
					t.Fatalf("after %d steps: %v", n, err)
				}
				if newer = newer || got != nil && got.KeyPair.TLS.Leaf.Equal(fresh.KeyPair.TLS.Leaf); newer {
					k.has(fresh)
				} else {
					k.has(was)
				}
				k.save(middle) // what is left behind is in nobody's way
				k.has(middle)
			}
		})
	}
}

// crash makes the first n steps of a Save, and reports whether there are so many.
func (k kept) crash(i *identity.Issued, n int) bool {
	k.Helper()
	done, err := k.disk().SaveUntil(i, n)
	if err != nil {
		k.Fatal(err)
	}
	return done
}

func TestWhatIsNotWholeOnDiskIsNamed(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		spoil func(k kept)
		want  string
	}{
		"no chain":     {func(k kept) { k.remove("cert-chain.pem") }, "cert-chain.pem"},
		"no key":       {func(k kept) { k.remove("key.pem") }, "key.pem"},
		"no roots":     {func(k kept) { k.remove("root-cert.pem") }, "root-cert.pem"},
		"half a chain": {func(k kept) { replaceFile(k.T, k.dir, "cert-chain.pem", []byte("-----BEGIN CERTIFICATE-----\nMII")) }, "PEM block 1"},
		"empty key":    {func(k kept) { replaceFile(k.T, k.dir, "key.pem", nil) }, "no private key"},
		"another key": {func(k kept) {
			other := kept{k.T, k.TempDir()}
			other.plain(k.issue("other", now, now.Add(time.Hour)))
			text, _ := os.ReadFile(filepath.Join(other.dir, "key.pem"))
			replaceFile(k.T, k.dir, "key.pem", text)
		}, "does not fit"},
		"other roots": {func(k kept) { replaceFile(k.T, k.dir, "root-cert.pem", domainRoot(k.T, "x").PEM()) }, "does not lead to root-cert.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kept{t, t.TempDir()}
			k.plain(k.issue("root", now, now.Add(time.Hour)))
			c.spoil(k)
			got, err := k.disk().Load()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Load gives %v, %v; want an error with %q", got, err, c.want)
			}
		})
	}
}

func (k kept) remove(name string) {
	k.Helper()
	if err := os.Remove(filepath.Join(k.dir, name)); err != nil {
		k.Fatal(err)
	}
}

func TestAProofNeedsNoRoots(t *testing.T) {
	k := kept{t, t.TempDir()}
	i := k.issue("root", time.Now(), time.Now().Add(time.Hour))
	if c, err := k.disk().Certificate(); c != nil || err != nil {
		t.Errorf("an empty directory has %v, %v; want neither", c, err)
	}
	k.plain(i)
	k.remove("root-cert.pem")
	if c, err := k.disk().Certificate(); err != nil || c == nil || !c.Leaf.Equal(i.KeyPair.TLS.Leaf) {
		t.Errorf("got %v, %v; want the certificate", c, err)
	}
	k.remove("key.pem")
	if c, err := k.disk().Certificate(); c != nil || err == nil || !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("without the key: %v, %v; want an error that names it", c, err)
	}
}

func TestACertificateOfAnotherWorkloadIsNotOurs(t *testing.T) {
	k := kept{t, t.TempDir()}
	k.save(k.issue("root", time.Now(), time.Now().Add(time.Hour)))
	d := k.disk()
	d.ID = spiffeid.RequireFromString("spiffe://prod/ns/a/sa/other")
	if got, err := d.Load(); err == nil || !strings.Contains(err.Error(), workload) {
		t.Errorf("Load gives %v, %v; want an error with %q", got, err, workload)
	}
	d.ID = spiffeid.RequireFromString(workload)
	if _, err := d.Load(); err != nil {
		t.Error(err)
	}
}

func TestARestartServesWhatIsOnDiskAndRenewsItInItsTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		keep := func(opts *identity.AuthorityOptions, _ *identity.Options) { opts.Disk = &identity.Disk{Dir: dir} }
		r := rotate(t, a, keep)
		r.stop()
		a.setTimes(dir) // files have the machine's time, not the bubble's
		pass(10 * time.Minute)
		a.down()

		again := rotate(t, a, keep)
		again.good()
		if n := len(a.asked(time.Time{})); n != 1 {
			t.Errorf("%d requests, want one: what is kept is good", n)
		}
		h, err := again.keeper.Handle(identity.DefaultName)
		if err != nil {
			t.Fatal(err)
		}
		if next := time.Until(h.Planned()); next < 19*time.Minute || next > 26*time.Minute {
			t.Errorf("the renewal is planned in %s, want 20 to 26 minutes", next)
		}
		pass(27 * time.Minute)
		a.up()
		pass(time.Minute)
		again.good()
		if n := len(a.answers()); n != 2 {
			t.Errorf("%d certificates, want 2", n)
		}
		again.stop()
		a.setTimes(dir)

		pass(2 * time.Hour)
		a.down()
		late := rotate(t, a, keep)
		if late.keeper.Pair() != nil {
			t.Error("an expired certificate is served")
		}
		if want := "the certificate of " + workload + " expired"; lines(late.log, "passed over") != 1 || lines(late.log, want) == 0 {
			t.Errorf("the log has no %q:\n%s", want, late.log)
		}
		late.stop()

		replaceFile(t, filepath.Join(dir, ".outrider-current"), "key.pem", []byte("noise"))
		a.up()
		broken := rotate(t, a, keep)
		defer broken.stop()
		broken.good() // by a request
		if lines(broken.log, "passed over") != 1 || lines(broken.log, "private key") == 0 {
			t.Errorf("the log does not name what is broken:\n%s", broken.log)
		}
		if got, err := (&identity.Disk{Dir: dir}).Load(); err != nil || !got.KeyPair.TLS.Leaf.Equal(broken.keeper.Pair().TLS.Leaf) {
			t.Errorf("on disk is %v, %v; want what is served", got, err)
		}
	})
}

// setTimes gives the files the time of the bubble.
func (a *authority) setTimes(dir string) {
	a.Helper()
	for _, name := range []string{"key.pem", "cert-chain.pem", "root-cert.pem"} {
		if err := os.Chtimes(filepath.Join(dir, name), time.Now(), time.Now()); err != nil {
			a.Fatal(err)
		}
	}
}

func TestADiskThatCannotBeWrittenIsSaidAndStopsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		r := rotate(t, a, func(opts *identity.AuthorityOptions, _ *identity.Options) {
			opts.Disk = &identity.Disk{Dir: filepath.Join(file, "certs")}
		})
		defer r.stop()
		each(10*time.Second, 2*time.Hour, r.good)
		if n := lines(r.log, `level=ERROR msg="the certificate cannot be kept on disk"`); n != len(a.answers()) {
			t.Errorf("%d errors, want one for each of %d certificates:\n%s", n, len(a.answers()), r.log)
		}
	})
}
