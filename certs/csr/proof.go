package csr

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// proof is what tells the authority who we are: a token, a client certificate,
// both or neither. The authority decides whether that is enough.
type proof struct {
	token token
	// certificate is presented if the authority asks for one; nil is none.
	certificate *tls.Certificate
	leaf        *x509.Certificate // of certificate
	at          time.Time         // our clock when they were read
	asked       atomic.Bool       // the authority asked for a certificate
	unused      string            // which certificate is not presented, and why
	sent        bool              // the token went out
}

// gather reads the token and the client certificate anew. A certificate that is
// out of its time would end the handshake, so it is presented only if there is
// no token to send instead.
func gather(opts *Options, now time.Time) (*proof, error) {
	p := &proof{at: now}
	var err error
	if p.token, err = readToken(opts.TokenPath); err != nil {
		return nil, err
	}
	if opts.Certificate == nil {
		return p, nil
	}
	if p.certificate, err = opts.Certificate(); err != nil {
		return nil, &CertificateError{Err: err}
	}
	if p.certificate == nil {
		return p, nil
	}
	if p.leaf, err = leafOf(p.certificate); err != nil {
		return nil, &CertificateError{Err: err}
	}
	if !p.valid() && !p.token.missing() {
		p.unused = p.describeCertificate()
		p.certificate = nil
	}
	return p, nil
}

// withhold presents no certificate, if there is a token to send instead.
func (p *proof) withhold() {
	if p.certificate == nil || p.token.missing() {
		return
	}
	p.unused = p.describeCertificate() + ", which the authority did not take before"
	p.certificate = nil
}

func leafOf(c *tls.Certificate) (*x509.Certificate, error) {
	if len(c.Certificate) == 0 || c.PrivateKey == nil {
		return nil, errors.New("it has no certificate or no key")
	}
	if c.Leaf != nil {
		return c.Leaf, nil
	}
	return x509.ParseCertificate(c.Certificate[0])
}

// valid says that the client certificate is in its time by our clock.
func (p *proof) valid() bool { return !p.at.Before(p.leaf.NotBefore) && !p.at.After(p.leaf.NotAfter) }

// present answers the authority's request for a certificate.
func (p *proof) present(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	p.asked.Store(true)
	if p.certificate == nil {
		return &tls.Certificate{}, nil
	}
	return p.certificate, nil
}

// bearer is the token to send, once the connection stands. One that has expired
// is sent too, for our clock may be the wrong one, unless the authority has
// taken a certificate of ours instead.
func (p *proof) bearer() (value string, ok bool) {
	certified := p.certificate != nil && p.asked.Load()
	p.sent = !p.token.missing() && !(certified && p.token.expired(p.at))
	return p.token.value, p.sent
}

// describe says for people what was shown to the authority.
func (p *proof) describe() string {
	sent := "sent "
	if !p.sent && !p.token.missing() {
		sent = "did not send "
	}
	sent += p.token.describe(p.at)
	switch {
	case p.unused != "":
		return "we " + sent + " and did not present " + p.unused
	case p.certificate == nil:
		return "we " + sent + " and presented no client certificate"
	case p.asked.Load():
		return "we " + sent + " and presented " + p.describeCertificate()
	}
	return "we " + sent + " and were not asked for " + p.describeCertificate()
}

func (p *proof) describeCertificate() string {
	text := fmt.Sprintf("the client certificate of %s", nameOf(p.leaf))
	if !p.valid() {
		text += fmt.Sprintf(", valid from %s to %s while our clock says %s", stamp(p.leaf.NotBefore), stamp(p.leaf.NotAfter), stamp(p.at))
	}
	return text
}

// nameOf is what people know a certificate by: its URI, else its subject.
func nameOf(c *x509.Certificate) string {
	if len(c.URIs) > 0 {
		return fmt.Sprintf("%q", c.URIs[0])
	}
	return fmt.Sprintf("%q", c.Subject)
}
