package tlsmux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"outrider/certs"
)

// Reason is why a handshake failed: a label of few values.
type Reason string

const (
	ReasonNotReady    Reason = "secret_not_ready"
	ReasonNoCert      Reason = "no_certificate"
	ReasonChain       Reason = "chain"
	ReasonUnknownRoot Reason = "unknown_root"
	ReasonExpired     Reason = "expired"
	ReasonNotYetValid Reason = "not_yet_valid"
	ReasonUsage       Reason = "key_usage"
	ReasonCRL         Reason = "crl"
	ReasonSAN         Reason = "san"
	ReasonHash        Reason = "hash"
	ReasonAlert       Reason = "peer_alert"
	ReasonEOF         Reason = "eof"
	ReasonTimeout     Reason = "timeout"
	ReasonNotTLS      Reason = "not_tls"
	ReasonProtocol    Reason = "protocol"
	ReasonNoSNI       Reason = "no_sni"
)

// HandshakeError is a handshake that failed, with everything that is needed to
// mend it. Its text is one sentence.
type HandshakeError struct {
	Side   Side
	Reason Reason
	// What is wrong with it, as the rest of a sentence about the peer's
	// certificate; "" if no certificate was judged.
	What string
	// Presented is the peer's certificate, Expected what its names should have
	// matched, Roots the anchors that were tried.
	Presented string
	Expected  []string
	Roots     []string
	// Clock says that the clock is the likely cause, and why; "" if not.
	Clock string
	Err   error // nil if What says it all
}

func (e *HandshakeError) Unwrap() error { return e.Err }

// Error is what was presented, what was expected, the roots and the clock.
func (e *HandshakeError) Error() string {
	if e.What == "" {
		if e.Err == nil {
			return string(e.Reason)
		}
		return e.Err.Error()
	}
	var s strings.Builder
	s.WriteString("the peer")
	if e.Presented != "" {
		s.WriteString(", who presented " + e.Presented + ",")
	}
	s.WriteString(" " + e.What)
	if len(e.Expected) > 0 {
		s.WriteString(": expected " + strings.Join(e.Expected, " or "))
	}
	if e.Err != nil {
		s.WriteString(": " + e.Err.Error())
	}
	if len(e.Roots) > 0 && e.Reason != ReasonSAN && e.Reason != ReasonHash {
		s.WriteString("; roots: " + strings.Join(e.Roots, ", "))
	}
	if e.Clock != "" {
		s.WriteString("; " + e.Clock)
	}
	return s.String()
}

// Stat is the counter of Envoy's ssl scope that the failure belongs to.
func (e *HandshakeError) Stat() string {
	switch e.Reason {
	case ReasonNoCert:
		return "fail_verify_no_cert"
	case ReasonChain, ReasonUnknownRoot, ReasonExpired, ReasonNotYetValid, ReasonUsage, ReasonCRL:
		return "fail_verify_error"
	case ReasonSAN:
		return "fail_verify_san"
	case ReasonHash:
		return "fail_verify_cert_hash"
	}
	return "connection_error"
}

// describeCert is a certificate as a person would name it: by its names, else
// by its subject; and who signed it.
func describeCert(c *x509.Certificate) string {
	var names []string
	for _, u := range uriTexts(c.URIs) {
		names = append(names, "URI "+u)
	}
	for _, d := range c.DNSNames {
		names = append(names, "DNS "+d)
	}
	for _, e := range c.EmailAddresses {
		names = append(names, "email "+e)
	}
	for _, ip := range c.IPAddresses {
		names = append(names, "IP "+canonicalIP(ip))
	}
	if len(names) == 0 {
		names = []string{fmt.Sprintf("subject %q without any SAN", c.Subject)}
	}
	return fmt.Sprintf("%s (issued by %q)", printable(strings.Join(names, ", ")), c.Issuer)
}

// printable keeps a peer from writing lines of its own into our log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

var sanTypeNames = [...]string{"", "email ", "DNS ", "URI ", "IP "}

func describeMatchers(all []certs.SANMatcher) []string {
	var out []string
	for _, m := range all {
		out = append(out, sanTypeNames[m.Type]+m.Match.String())
	}
	return out
}

// describeRoots names the anchors that leaf was held against, and where they
// came from.
func (p *policy) describeRoots(leaf *x509.Certificate) []string {
	roots := p.Roots
	if p.TrustDomains != nil {
		id := peerID(leaf)
		roots = p.TrustDomains[id.TrustDomain()]
	}
	var out []string
	for _, r := range roots {
		out = append(out, fmt.Sprintf("%q", r.Subject))
	}
	if len(out) > 0 {
		out[len(out)-1] += " (" + p.origin() + ")"
	}
	return out
}

// origin is where the roots came from and how old they are.
func (p *policy) origin() string {
	s := "from " + p.rootsFrom
	if p.rootsName != "" {
		s = p.rootsName + ", " + s
	}
	if !p.rootsUpdated.IsZero() {
		s += ", " + time.Since(p.rootsUpdated).Round(time.Second).String() + " old"
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// clockSlack is how far off a certificate may be for the clock to be the
// likely cause: clocks are wrong by minutes, rotations fail for hours.
const clockSlack = 10 * time.Minute

// chainFailure is crypto/x509's refusal in our words.
func chainFailure(err error, chain []*x509.Certificate, now time.Time) *HandshakeError {
	f := &HandshakeError{Reason: ReasonChain, What: "has no valid chain", Err: err}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		f.Reason, f.What, f.Err = ReasonUnknownRoot, "is not signed by any of the roots", nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		timeFailure(f, chain, now)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		f.Reason, f.What, f.Err = ReasonUsage, "may not be used for this by its extended key usage", nil
	}
	return f
}

// timeFailure says which certificate is out of its time, and by how much.
func timeFailure(f *HandshakeError, chain []*x509.Certificate, now time.Time) {
	f.Reason, f.What = ReasonExpired, "has an expired certificate in its chain"
	for i, c := range chain {
		whose := "its certificate"
		if i > 0 {
			whose = fmt.Sprintf("its intermediate %q", c.Subject)
		}
		switch {
		case now.After(c.NotAfter):
			late := now.Sub(c.NotAfter).Round(time.Second)
			f.What, f.Err = fmt.Sprintf("is refused: %s expired %s ago, at %s", whose, late, stamp(c.NotAfter)), nil
			if late < clockSlack {
				f.Clock = "a clock is the likely cause, ours or its CA's: ours says " + stamp(now)
			}
			return
		case now.Before(c.NotBefore):
			early := c.NotBefore.Sub(now).Round(time.Second)
			f.Reason, f.Err = ReasonNotYetValid, nil
			f.What = fmt.Sprintf("is refused: %s becomes valid in %s, at %s", whose, early, stamp(c.NotBefore))
			f.Clock = "our clock is probably behind: it says " + stamp(now)
			return
		}
	}
}

// failure makes a HandshakeError of whatever ended a handshake.
func failure(side Side, err error) *HandshakeError {
	var already *HandshakeError
	if errors.As(err, &already) {
		already.Side = side
		return already
	}
	f := &HandshakeError{Side: side, Reason: ReasonProtocol, Err: fmt.Errorf("TLS handshake: %w", err)}
	var op *net.OpError
	var alert tls.AlertError
	var header tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		f.Reason, f.Err = ReasonTimeout, fmt.Errorf("the TLS handshake was not done in time: %w", err)
	case errors.As(err, &header):
		f.Reason, f.Err = ReasonNotTLS, fmt.Errorf("the peer does not speak TLS: %w", err)
	case errors.As(err, &op) && op.Op == "remote error", errors.As(err, &alert):
		f.Reason, f.Err = ReasonAlert, fmt.Errorf("the peer sent alert: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.Reason, f.Err = ReasonEOF, errors.New("the peer closed during the TLS handshake")
	}
	return f
}
