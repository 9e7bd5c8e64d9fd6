package tlsmux

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"

	"outrider/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a certificate with its key, below parent (nil for a root).
type node struct {
	cert   *x509.Certificate
	key    crypto.Signer
	parent *node
	serial int64
}

// shape changes a template.
type shape func(*x509.Certificate)

// issue makes a certificate below n, or, if n is nil, one of its own.
func (n *node) issue(tb testing.TB, name string, shapes ...shape) *node {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return n.issueKey(tb, name, key, shapes...)
}

func (n *node) issueKey(tb testing.TB, name string, key crypto.Signer, shapes ...shape) *node {
	tb.Helper()
	serial := int64(0x100)
	for up := n; up != nil; up = up.parent {
		up.serial++
		serial = serial*16 + up.serial
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, s := range shapes {
		s(t)
	}
	issuer, signer := t, key
	if n != nil {
		issuer, signer = n.cert, n.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &node{cert: cert, key: key, parent: n}
}

func isCA(t *x509.Certificate) {
	t.IsCA, t.BasicConstraintsValid, t.ExtKeyUsage = true, true, nil
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
}

func uri(text string) shape {
	return func(t *x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			panic(err)
		}
		t.URIs = append(t.URIs, u)
	}
}

func dns(names ...string) shape { return func(t *x509.Certificate) { t.DNSNames = names } }

func between(from, to time.Time) shape {
	return func(t *x509.Certificate) { t.NotBefore, t.NotAfter = from, to }
}

func eku(all ...x509.ExtKeyUsage) shape { return func(t *x509.Certificate) { t.ExtKeyUsage = all } }

func root(tb testing.TB, name string, shapes ...shape) *node {
	tb.Helper()
	return (*node)(nil).issue(tb, name, append([]shape{isCA}, shapes...)...)
}

// chain is n and what is between it and its root.
func (n *node) chain() []*x509.Certificate {
	out := []*x509.Certificate{n.cert}
	for up := n.parent; up != nil && up.parent != nil; up = up.parent {
		out = append(out, up.cert)
	}
	return out
}

func (n *node) pair() *certs.KeyPair {
	p := &certs.KeyPair{TLS: tls.Certificate{PrivateKey: n.key, Leaf: n.cert}}
	for _, c := range n.chain() {
		p.TLS.Certificate = append(p.TLS.Certificate, c.Raw)
	}
	return p
}

// crl is n's list of the revoked, in its time from..to.
func (n *node) crl(tb testing.TB, from, to time.Time, revoked ...*node) *x509.RevocationList {
	tb.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.cert.SerialNumber, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, n.cert, n.key)
	if err != nil {
		tb.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		tb.Fatal(err)
	}
	return crl
}

func rsaKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// inline is a key pair in the configuration.
func inline(n *node) certs.Ref {
	return certs.Ref{Inline: &certs.Secret{Version: n.cert.SerialNumber.String(), KeyPair: n.pair(), From: "inline"}}
}

func roots(nodes ...*node) []*x509.Certificate {
	var out []*x509.Certificate
	for _, n := range nodes {
		out = append(out, n.cert)
	}
	return out
}

func exactURI(text string) certs.SANMatcher {
	return certs.SANMatcher{Type: certs.SANURI, Match: certs.StringMatcher{Pattern: text}}
}

func noFeeds() *certs.Store { return certs.NewStore(certs.Feeds{}) }

// tcpPair is a TCP connection with both its ends.
func tcpPair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// shaken is what both sides of a handshake came to.
type shaken struct {
	client, server       *Conn
	clientErr, serverErr error
}

// shakeHands has a client of ours meet a server of ours. The client reads one
// byte, which the server sends, so that it sees tickets and late alerts.
func shakeHands(tb testing.TB, c *Client, s *Server, o ClientOptions) shaken {
	tb.Helper()
	near, far := tcpPair(tb)
	var out shaken
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.server, out.serverErr = s.Handshake(context.Background(), far)
		if out.serverErr != nil {
			far.Close()
			return
		}
		out.server.Write([]byte("x"))
	}()
	out.client, out.clientErr = c.Handshake(context.Background(), near, o)
	if out.clientErr == nil {
		_, out.clientErr = io.ReadFull(out.client, make([]byte, 1))
	} else {
		near.Close()
	}
	<-done
	return out
}

// meet has a plain crypto/tls client meet a server of ours.
func meet(tb testing.TB, s *Server, cfg *tls.Config) (state tls.ConnectionState, conn *Conn, err error) {
	tb.Helper()
	near, far := tcpPair(tb)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err = s.Handshake(context.Background(), far); err != nil {
			far.Close()
			return
		}
		conn.Write([]byte("x"))
	}()
	cfg = cfg.Clone()
	cfg.InsecureSkipVerify = true
	t := tls.Client(near, cfg)
	if t.Handshake() == nil {
		io.ReadFull(t, make([]byte, 1))
	}
	state = t.ConnectionState()
	near.Close()
	<-done
	return state, conn, err
}
