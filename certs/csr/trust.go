package csr

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"outrider/certs"
)

// maxRootFile bounds a root file: a bundle of a thousand roots is under 4 MiB.
const maxRootFile = 4 << 20

// anchors is a Trust as it is now, for one connection.
type anchors struct {
	roots *x509.CertPool // nil if only pins are given
	pins  [][sha256.Size]byte
	// from are the sources with the number of roots of each, for people.
	from []string
}

// read reads what t names. No root at all is an error.
func (t Trust) read() (*anchors, error) {
	a := &anchors{pins: t.Pins}
	if len(t.Pins) > 0 {
		a.from = append(a.from, counted("the pinned keys", len(t.Pins), "key"))
	}
	if t.RootFile == "" && t.Bundle == nil && !t.System {
		return a, nil
	}
	a.roots = x509.NewCertPool()
	if t.System {
		system, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("roots of the system: %w", err)
		}
		a.roots = system
		a.from = append(a.from, "the system's roots")
	}
	if t.RootFile != "" {
		roots, err := readRoots(t.RootFile)
		if err != nil {
			return nil, fmt.Errorf("root file %s: %w", t.RootFile, err)
		}
		a.add(t.RootFile, roots)
	}
	if t.Bundle != nil {
		a.add("the bundle", t.Bundle())
	}
	if a.roots.Equal(x509.NewCertPool()) {
		return nil, fmt.Errorf("there is no root to know the authority by (%s)", strings.Join(a.from, ", "))
	}
	return a, nil
}

func readRoots(path string) ([]*x509.Certificate, error) {
	text, err := readBounded(path, maxRootFile)
	if err != nil {
		return nil, err
	}
	return certs.ParseRoots(text)
}

func (a *anchors) add(from string, roots []*x509.Certificate) {
	for _, c := range roots {
		a.roots.AddCert(c)
	}
	a.from = append(a.from, counted(from, len(roots), "root"))
}

// counted is "the bundle (2 roots)".
func counted(from string, n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%s (%d %s)", from, n, what)
}

// config is the TLS client of one connection. crypto/tls's own verification
// knows no pins, so it is done in VerifyConnection, which is never skipped.
func (a *anchors) config(serverName string, p *proof) *tls.Config {
	return &tls.Config{
		ServerName:           serverName,
		MinVersion:           tls.VersionTLS12,
		GetClientCertificate: p.present,
		InsecureSkipVerify:   true, // VerifyConnection verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			return a.verify(s.PeerCertificates, serverName, time.Now())
		},
	}
}

// verify demands that presented, the authority's own certificate first, has the
// server name and leads to a root, and with pins through a pinned key.
func (a *anchors) verify(presented []*x509.Certificate, serverName string, now time.Time) error {
	if len(presented) == 0 {
		return &AuthorityError{ServerName: serverName, Trusted: a.from, Now: now, Err: errors.New("it has no certificate")}
	}
	opts := x509.VerifyOptions{DNSName: serverName, Roots: a.roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range presented[1:] {
		opts.Intermediates.AddCert(c)
	}
	if opts.Roots == nil {
		opts.Roots = x509.NewCertPool()
		for _, c := range presented {
			if a.pinned(c) {
				opts.Roots.AddCert(c)
			}
		}
	}
	chains, err := presented[0].Verify(opts)
	if err == nil && len(a.pins) > 0 && !slices.ContainsFunc(chains, a.throughPin) {
		err = errors.New("no key of its chain is pinned")
	}
	if err != nil {
		return &AuthorityError{ServerName: serverName, Presented: presented[0], Trusted: a.from, Now: now, Err: err}
	}
	return nil
}

func (a *anchors) throughPin(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, a.pinned)
}

func (a *anchors) pinned(c *x509.Certificate) bool {
	return slices.Contains(a.pins, sha256.Sum256(c.RawSubjectPublicKeyInfo))
}
