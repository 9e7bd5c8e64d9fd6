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

	"outrider/certs"
)

// Disk keeps the last good certificate with its key and roots in a directory,
// as Istio's agent does with OUTPUT_CERTS. The directory is 0700, the files
// 0600: who can read it is the workload.
type Disk struct{ Dir string }

// The files, with Istio's names. The whole is one symbolic link away, so that
// key and certificate change together: current -> one of two directories.
const (
	keyFile   = "key.pem"
	chainFile = "cert-chain.pem"
	rootsFile = "root-cert.pem"
	current   = "current"
)

// Save keeps i in place of what was kept. After a crash at any point, what was
// kept before or i is there, whole.
func (d *Disk) Save(i *Issued) error {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return err
	}
	next := "a"
	if now, err := os.Readlink(filepath.Join(d.Dir, current)); err == nil && now == next {
		next = "b"
	}
	dir := filepath.Join(d.Dir, next)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	files, err := pemFiles(i)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := writeSynced(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return d.point(next)
}

// point makes the link lead to dir, and the plain names to what is behind it.
func (d *Disk) point(dir string) error {
	if err := relink(dir, filepath.Join(d.Dir, current)); err != nil {
		return err
	}
	for _, name := range []string{keyFile, chainFile, rootsFile} {
		path, target := filepath.Join(d.Dir, name), filepath.Join(current, name)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		if err := relink(target, path); err != nil {
			return err
		}
	}
	return syncDir(d.Dir)
}

// relink replaces a link, or a file of another agent, in one step.
func relink(target, path string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, path)
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
	var chain, roots bytes.Buffer
	for _, der := range i.KeyPair.TLS.Certificate {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	for _, c := range i.Roots {
		if err := pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return nil, err
		}
	}
	return map[string][]byte{
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), chainFile: chain.Bytes(), rootsFile: roots.Bytes(),
	}, nil
}

// Load reads what is kept, whatever its time; nil without an error if nothing
// is. What was put there by another agent is read too.
func (d *Disk) Load() (*Issued, error) {
	pair, err := d.pair()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, rootsFile))
	if err != nil {
		return nil, err
	}
	roots, err := certs.ParseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootsFile, err)
	}
	return &Issued{KeyPair: pair, Roots: roots}, nil
}

func (d *Disk) pair() (*certs.KeyPair, error) {
	chain, err := os.ReadFile(filepath.Join(d.Dir, chainFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(d.Dir, keyFile))
	if err != nil {
		return nil, err
	}
	return certs.ParseKeyPair(chain, key)
}

// Certificate is the kept certificate, to prove who we are to an authority; nil
// without an error if none is kept.
func (d *Disk) Certificate() (*tls.Certificate, error) {
	pair, err := d.pair()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &pair.TLS, nil
}
