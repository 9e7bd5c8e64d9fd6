package istioca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// IssueFiles makes a key and a certificate for a workload that is not reached
// yet, and writes key.pem, cert-chain.pem and root-cert.pem into a directory,
// 0600 each: what istio's agent takes as PROV_CERT. The key comes last, so that
// files that were there before fit as long as the key is the old one.
func (a *Authority) IssueFiles(out string, id spiffeid.ID, ttl time.Duration) (*Issued, error) {
	if err := a.checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keyPEM, err := marshalKey(key)
	if err != nil {
		return nil, err
	}
	issued, err := a.Issue(Order{ID: id, Public: key.Public(), TTL: ttl, Caller: "command line"})
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, text string }{
		{"root-cert.pem", issued.RootsPEM()}, {"cert-chain.pem", issued.ChainPEM()}, {"key.pem", keyPEM},
	} {
		if err := WriteSecret(filepath.Join(out, f.name), []byte(f.text)); err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
	}
	return issued, nil
}

// WriteSecret replaces a file whole, readable by its owner only.
func WriteSecret(path string, text []byte) error {
	temp := path + "~"
	// A file that somebody else put there would keep its own mode and owner.
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return replaceFile(path, temp, text)
}
