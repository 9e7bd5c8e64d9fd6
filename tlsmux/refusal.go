package tlsmux

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// Reason is why a handshake failed: a label of few values.
type Reason string

const (
	// Ours: a secret has never come, or the context cannot be used.
	ReasonNotReady Reason = "secret_not_ready"
	ReasonUnusable Reason = "context_unusable"
	// The certificate that we would present has ended: Err is an
	// *OwnExpiredError.
	ReasonOwnExpired Reason = "own_certificate_expired"

	// The peer's certificate.
	ReasonNoCert      Reason = "no_certificate"
	ReasonChain       Reason = "chain"
	ReasonUnknownRoot Reason = "unknown_root"
	ReasonExpired     Reason = "expired"
	ReasonNotYetValid Reason = "not_yet_valid"
	ReasonKeyUsage    Reason = "key_usage"
	ReasonEKU         Reason = "eku"
	ReasonSVID        Reason = "svid"
	ReasonCRL         Reason = "crl"
	ReasonSAN         Reason = "san"
	ReasonHash        Reason = "hash"

	// The connection. ReasonAlert: the peer refuses us, and only its log has
	// the reason.
	ReasonAlert    Reason = "peer_alert"
	ReasonEOF      Reason = "eof"
	ReasonReset    Reason = "reset"
	ReasonTimeout  Reason = "timeout"
	ReasonCanceled Reason = "canceled"
	ReasonNotTLS   Reason = "not_tls"
	ReasonProtocol Reason = "protocol"
	ReasonNoSNI    Reason = "no_sni"
)

// HandshakeError is a handshake that failed, with everything that is needed to
// mend it. Its text is one sentence.
type HandshakeError struct {
	Side   Side
	Reason Reason
	// What is wrong, as the rest of a sentence about the peer; "" if the peer
	// is not who is wrong, or Reason is ReasonSAN or ReasonNoCert.
	What string
	// Peer is the certificate that was judged; nil if none was.
	Peer *PeerFacts
	// Expected is what the peer's names or hashes should have matched, Roots
	// the anchors that were tried.
	Expected []string
	Roots    []string
	// Clock says that the clock is the likely cause, and why; "" if not.
	Clock string
	// Alert is the number of the alert that the peer sent; 0 if it sent none.
	Alert uint8
	Err   error // nil if What says it all

	// envoy is the part of Envoy's text that is not the same for all failures
	// of the Reason, depth the index in the chain that it names.
	envoy string
	depth int
}

// PeerFacts are what a leaf certificate says about its owner.
type PeerFacts struct {
	// SANs have their type before them: "URI spiffe://...".
	SANs                []string
	Subject, Issuer     string
	Serial              string // hexadecimal
	NotBefore, NotAfter time.Time
}

func factsOf(c *x509.Certificate) *PeerFacts {
	f := &PeerFacts{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
	if c.SerialNumber != nil {
		f.Serial = c.SerialNumber.Text(16)
	}
	for _, n := range altNames(c) {
		f.SANs = append(f.SANs, n.String())
	}
	return f
}

// String is the peer as a person would name it: by its names, else by its
// subject; and who signed it.
func (p *PeerFacts) String() string {
	names := listed(p.SANs, ", ")
	if len(p.SANs) == 0 {
		names = fmt.Sprintf("subject %q without any SAN", p.Subject)
	}
	if p.Serial == "" { // described by its name alone
		return printable(names)
	}
	return fmt.Sprintf("%s (issued by %q, serial %s)", printable(names), p.Issuer, p.Serial)
}

func (e *HandshakeError) Unwrap() error { return e.Err }

// Error is what was presented, what was expected, the roots and the clock.
func (e *HandshakeError) Error() string {
	var s strings.Builder
	switch {
	case e.Reason == ReasonNoCert:
		s.WriteString("the peer presented no certificate, and one is required")
	case e.Reason == ReasonSAN && e.Peer != nil:
		fmt.Fprintf(&s, "the peer presented %s", e.Peer)
	case e.What == "" && e.Err != nil:
		return e.Err.Error()
	case e.What == "":
		return string(e.Reason)
	case e.Peer != nil:
		fmt.Fprintf(&s, "the peer, who presented %s, %s", e.Peer, e.What)
	default:
		s.WriteString("the peer " + e.What)
	}
	if len(e.Expected) > 0 {
		s.WriteString(", expected one of: " + listed(e.Expected, ", "))
	}
	if e.Err != nil {
		s.WriteString(": " + e.Err.Error())
	}
	if len(e.Roots) > 0 {
		s.WriteString("; roots: " + listed(e.Roots, ", "))
	}
	if e.Clock != "" {
		s.WriteString("; " + e.Clock)
	}
	return s.String()
}

// SSLCounter is the counter of Envoy's ssl scope that the failure belongs to;
// "" if Envoy counts it elsewhere or not at all.
func (e *HandshakeError) SSLCounter() string {
	switch e.Reason {
	case ReasonNoCert:
		return "fail_verify_no_cert"
	case ReasonChain, ReasonUnknownRoot, ReasonExpired, ReasonNotYetValid, ReasonEKU, ReasonSVID, ReasonCRL:
		return "fail_verify_error"
	case ReasonSAN:
		return "fail_verify_san"
	case ReasonHash:
		return "fail_verify_cert_hash"
	case ReasonNotReady, ReasonUnusable, ReasonOwnExpired, ReasonEOF, ReasonReset, ReasonTimeout, ReasonCanceled:
		return ""
	}
	return "connection_error"
}

// maxListed is how many of a list a sentence names: a log line is read by
// people, and a peer decides how many names it has.
const maxListed = 8

func listed(all []string, separator string) string {
	if len(all) <= maxListed {
		return strings.Join(all, separator)
	}
	return strings.Join(all[:maxListed], separator) + fmt.Sprintf(" and %d more", len(all)-maxListed)
}

// printable keeps a peer from writing lines of its own, or very long ones,
// into our log.
func printable(s string) string {
	const most = 1024
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func describeMatchers(all []certs.SANMatcher) []string {
	var out []string
	for _, m := range all {
		out = append(out, sanTypeNames[m.Type]+m.Match.String())
	}
	return out
}

// roots are the anchors for a peer of td.
func (p *policy) roots(td spiffeid.TrustDomain) []*x509.Certificate {
	if p.TrustDomains != nil {
		return p.TrustDomains[td]
	}
	return p.Roots
}

// namedCAs are the anchors whose names a server sends along when it asks for a
// certificate, as Envoy does.
func (p *policy) namedCAs() *x509.CertPool {
	all := p.Roots
	for _, td := range p.trustDomains() {
		all = append(all[:len(all):len(all)], p.TrustDomains[td]...)
	}
	return poolOf(all)
}

// describeRoots names the anchors that a peer of td was held against, and
// where they came from.
func (p *policy) describeRoots(td spiffeid.TrustDomain) []string {
	var out []string
	for _, r := range p.roots(td) {
		out = append(out, describeRoot(r))
	}
	if len(out) > 0 {
		last := min(len(out), maxListed) - 1
		out[last] += " (" + p.origin() + ")"
	}
	return out
}

// describeRoot is a root's subject, the beginning of its key identifier, which
// tells two of the same name apart, and its trust domain.
func describeRoot(r *x509.Certificate) string {
	s := fmt.Sprintf("%q", r.Subject)
	if id := r.SubjectKeyId; len(id) > 0 {
		s += " SKI " + hex.EncodeToString(id[:min(len(id), 4)])
	}
	for _, u := range r.URIs {
		if td, err := spiffeid.TrustDomainFromURI(u); err == nil {
			return s + fmt.Sprintf(" of trust domain %q", td.Name())
		}
	}
	return s
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
