package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// Disk keeps the last good certificate with its key and roots in a directory,
// as Istio's agent does with OUTPUT_CERTS. The files are 0600, and the
// directory is 0700 if it is made: who can read it is the workload.
type Disk struct {
	Dir string
	// ID is whose certificate it must be; zero is anybody's.
	ID spiffeid.ID
}

// The files, with Istio's names, are links that lead by way of current to one
// of two directories, so that key, chain and roots change together.
const (
	keyFile   = "key.pem"
	chainFile = "cert-chain.pem"
	rootsFile = "root-cert.pem"

	current   = ".outrider-current"
	firstDir  = ".outrider-a"
	secondDir = ".outrider-b"
)

// Save keeps i in place of what was kept. After a crash at any point, what was
// kept before or i is there, whole.
func (d *Disk) Save(i *Issued) error {
	steps, err := d.steps(i)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// steps are those of Save: each is made by the file system as a whole, or is
// about what nothing leads to yet.
func (d *Disk) steps(i *Issued) ([]func() error, error) {
	files, err := pemFiles(i)
	if err != nil {
		return nil, err
	}
	next := firstDir
	if now, err := os.Readlink(filepath.Join(d.Dir, current)); err == nil && now == next {
		next = secondDir
	}
	dir := filepath.Join(d.Dir, next)
	steps := []func() error{
		func() error { return os.MkdirAll(d.Dir, 0o700) },
		func() error { return os.RemoveAll(dir) },
		func() error { return os.Mkdir(dir, 0o700) },
	}
	for name, text := range files {
		steps = append(steps, func() error { return writeSynced(filepath.Join(dir, name), text) })
	}
	steps = append(steps, func() error { return syncDir(dir) })
	steps = append(steps, d.relink(next, current)...)
	for _, name := range []string{rootsFile, keyFile, chainFile} {
		steps = append(steps, d.relink(filepath.Join(current, name), name)...)
	}
	return append(steps, func() error { return syncDir(d.Dir) }), nil
}

// relink makes name, which may be a file of another agent, a link to target.
func (d *Disk) relink(target, name string) []func() error {
	path := filepath.Join(d.Dir, name)
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	fresh := filepath.Join(d.Dir, ".outrider-new")
	return []func() error{
		func() error { return os.RemoveAll(fresh) },
		func() error { return os.Symlink(target, fresh) },
		func() error { return os.Rename(fresh, path) },
	}
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func pemFiles(i *Issued) (map[string][]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(i.KeyPair.TLS.PrivateKey)
	if err != nil {
		return nil, err
	}
	roots := [][]byte{}
	for _, c := range i.Roots {
		roots = append(roots, c.Raw)
	}
	return map[string][]byte{
		keyFile:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		chainFile: certificatesPEM(i.KeyPair.TLS.Certificate),
		rootsFile: certificatesPEM(roots),
	}, nil
}

func certificatesPEM(all [][]byte) []byte {
	var out bytes.Buffer
	for _, der := range all {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out.Bytes()
}

// Load reads what is kept, whatever its time; nil without an error if nothing
// is. What was put there by another agent is read too, if it is whole.
func (d *Disk) Load() (*Issued, error) {
	kept, _, err := d.load()
	return kept, err
}

// load is Load, and when it was written.
func (d *Disk) load() (*Issued, time.Time, error) {
	kept, at, err := d.whole(d.Dir)
	if err == nil {
		return kept, at, nil
	}
	// A crash in the first Save beside another agent's files leaves plain names
	// of both; behind the link is what is whole.
	behind, at, behindErr := d.whole(filepath.Join(d.Dir, current))
	switch {
	case behindErr == nil:
		return behind, at, nil
	case d.empty():
		return nil, time.Time{}, nil
	}
	return nil, time.Time{}, err
}

// empty reports whether neither a key nor a certificate is kept.
func (d *Disk) empty() bool {
	_, keyErr := os.Lstat(filepath.Join(d.Dir, keyFile))
	_, chainErr := os.Lstat(filepath.Join(d.Dir, chainFile))
	return errors.Is(keyErr, fs.ErrNotExist) && errors.Is(chainErr, fs.ErrNotExist)
}

// whole reads the three files in dir, which must be of one another.
func (d *Disk) whole(dir string) (*Issued, time.Time, error) {
	pair, err := readPair(dir)
	if err != nil {
		return nil, time.Time{}, err
	}
	if !d.ID.IsZero() && pair.ID != d.ID {
		return nil, time.Time{}, fmt.Errorf("%s is the certificate of %q, not of %s", chainFile, pair.ID, d.ID)
	}
	text, err := os.ReadFile(filepath.Join(dir, rootsFile))
	if err != nil {
		return nil, time.Time{}, err
	}
	roots, err := certs.ParseRoots(text)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", rootsFile, err)
	}
	if err := VerifyChain(pair, roots); err != nil {
		return nil, time.Time{}, fmt.Errorf("%s does not lead to %s: %w", chainFile, rootsFile, err)
	}
	info, err := os.Stat(filepath.Join(dir, chainFile))
	if err != nil {
		return nil, time.Time{}, err
	}
	return &Issued{KeyPair: pair, Roots: roots}, info.ModTime(), nil
}

func readPair(dir string) (*certs.KeyPair, error) {
	chain, err := os.ReadFile(filepath.Join(dir, chainFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	return certs.ParseKeyPair(chain, key)
}

// Certificate is the kept certificate, to prove who we are to an authority; nil
// without an error if none is kept. It needs no roots beside it, and may be of
// another workload: the authority decides.
func (d *Disk) Certificate() (*tls.Certificate, error) {
	if kept, _, err := d.load(); err == nil && kept != nil {
		return &kept.KeyPair.TLS, nil
	}
	if d.empty() {
		return nil, nil
	}
	pair, err := readPair(d.Dir)
	if err != nil {
		return nil, err
	}
	return &pair.TLS, nil
}
