package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// serverName is the server certificates' DNS name.
const serverName = "server.bench"

// identities are the certificates that all peers share, in files and for Go.
// stranger is of another authority.
type identities struct {
	dir                      string
	root                     *x509.CertPool
	client, server, stranger tls.Certificate
}

// file is the path of root.pem, client.pem, client.key, client.both (chain and
// key in one), and so on.
func (i *identities) file(name string) string { return filepath.Join(i.dir, name) }

// newIdentities makes the certificates and writes them to dir.
func newIdentities(dir string) (*identities, error) {
	ids := &identities{dir: dir, root: x509.NewCertPool()}
	ca, err := newAuthority("bench")
	if err != nil {
		return nil, err
	}
	other, err := newAuthority("other")
	if err != nil {
		return nil, err
	}
	ids.root.AddCert(ca.cert)
	if err := os.WriteFile(ids.file("root.pem"), pemOf("CERTIFICATE", ca.cert.Raw), 0o600); err != nil {
		return nil, err
	}
	for _, leaf := range []struct {
		name string
		by   *authority
		to   *tls.Certificate
	}{{"client", ca, &ids.client}, {"server", ca, &ids.server}, {"stranger", other, &ids.stranger}} {
		if *leaf.to, err = leaf.by.issue(ids, leaf.name); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// loadIdentities reads what another process of ours wrote to dir.
func loadIdentities(dir string) (*identities, error) {
	ids := &identities{dir: dir, root: x509.NewCertPool()}
	text, err := os.ReadFile(ids.file("root.pem"))
	if err != nil {
		return nil, err
	}
	ids.root.AppendCertsFromPEM(text)
	ids.server, err = tls.LoadX509KeyPair(ids.file("server.pem"), ids.file("server.key"))
	return ids, err
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// issue makes a workload's certificate, good as client and server, as a mesh's
// are.
func (a *authority) issue(ids *identities, name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/bench/sa/" + name}},
		DNSNames:    []string{name + ".bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	chain, private := pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", pkcs8)
	for suffix, data := range map[string][]byte{".pem": chain, ".key": private, ".both": append(chain[:len(chain):len(chain)], private...)} {
		if err := os.WriteFile(ids.file(name+suffix), data, 0o600); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.X509KeyPair(chain, private)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// clientTLS is the TLS of a client of ours. With sessions, it resumes.
func (i *identities) clientTLS(sessions tls.ClientSessionCache) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.client}, RootCAs: i.root, ServerName: serverName,
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
		ClientSessionCache: sessions,
	}
}

// serverTLS is the TLS of a server of ours. With tickets, clients may resume.
func (i *identities) serverTLS(tickets bool) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.server}, ClientCAs: i.root, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
		SessionTicketsDisabled: !tickets,
	}
}

// sameTLS refuses a connection that is not TLS 1.3, X25519 and AES-128-GCM.
func sameTLS(s tls.ConnectionState) error {
	if s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519 || s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return fmt.Errorf("it speaks %s with %s and %s", tls.VersionName(s.Version), s.CurveID, tls.CipherSuiteName(s.CipherSuite))
	}
	return nil
}
