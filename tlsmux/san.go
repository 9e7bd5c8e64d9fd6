package tlsmux

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrider/certs"
)

// altName is one subject alternative name as the certificate has it: crypto/x509
// parses URIs, and what it prints again need not be what was signed.
type altName struct {
	kind certs.SANType
	text string
}

func (n altName) String() string { return sanTypeNames[n.kind] + n.text }

//nolint:gochecknoglobals // a table
var sanTypeNames = [...]string{certs.SANAny: "", certs.SANEmail: "email ", certs.SANDNS: "DNS ", certs.SANURI: "URI ", certs.SANIP: "IP "}

// altNames are the names of c in its own order, of the four types that can be
// matched. A name with a NUL in it is none.
func altNames(c *x509.Certificate) []altName {
	var out []altName
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) { // RFC 5280, section 4.2.1.6
			continue
		}
		var all asn1.RawValue
		if _, err := asn1.Unmarshal(ext.Value, &all); err != nil {
			return nil
		}
		for rest := all.Bytes; len(rest) > 0; {
			var v asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &v); err != nil {
				return nil
			}
			if n, ok := altNameOf(v); ok {
				out = append(out, n)
			}
		}
	}
	return out
}

// altNameOf reads a GeneralName.
func altNameOf(v asn1.RawValue) (altName, bool) {
	if v.Class != asn1.ClassContextSpecific {
		return altName{}, false
	}
	n := altName{text: string(v.Bytes)}
	switch v.Tag {
	case 1:
		n.kind = certs.SANEmail
	case 2:
		n.kind = certs.SANDNS
	case 6:
		n.kind = certs.SANURI
	case 7:
		ip, ok := netip.AddrFromSlice(v.Bytes)
		n.kind, n.text = certs.SANIP, ip.String()
		return n, ok
	default:
		return altName{}, false
	}
	return n, !strings.ContainsRune(n.text, 0)
}

// matchSAN is the name that m matches. Source: Envoy's san_matcher.cc: a DNS
// name with an exact matcher follows the rules of DNS, everything else is text.
func matchSAN(m certs.SANMatcher, names []altName) (altName, bool) {
	for _, n := range names {
		if m.Type != certs.SANAny && m.Type != n.kind {
			continue
		}
		if m.Match.Match(n.text) || n.kind == certs.SANDNS && m.Match.Kind == certs.MatchExact && dnsMatch(m.Match.Pattern, n.text) {
			return n, true
		}
	}
	return altName{}, false
}

// sansFailure is nil if one matcher matches one name, or there is no matcher.
func sansFailure(matchers []certs.SANMatcher, names []altName) *HandshakeError {
	if len(matchers) == 0 {
		return nil
	}
	for _, m := range matchers {
		if _, ok := matchSAN(m, names); ok {
			return nil
		}
	}
	var texts []string
	for _, n := range names {
		texts = append(texts, n.text)
	}
	return &HandshakeError{
		Reason: ReasonSAN, Expected: describeMatchers(matchers),
		envoy: "SAN matcher, certificate SANs are [" + strings.Join(texts, ", ") + "]",
	}
}

// dnsMatch is RFC 6125, section 6.4.3, as Envoy does it (dnsNameMatch in its
// TLS utility.cc): ignoring case, one "*" in the leftmost label of the
// certificate's name stands for any text in one label; never in an A-label.
func dnsMatch(want, presented string) bool {
	want, presented = strings.ToLower(want), strings.ToLower(presented)
	if want == presented {
		return true
	}
	label, rest, ok := strings.Cut(want, ".")
	pattern, parent, wild := strings.Cut(presented, ".")
	if !ok || !wild || rest != parent || strings.Contains(parent, "*") || strings.HasPrefix(pattern, "xn--") {
		return false
	}
	before, after, ok := strings.Cut(pattern, "*")
	return ok && !strings.Contains(after, "*") && label != "" && len(label) >= len(before)+len(after) &&
		strings.HasPrefix(label, before) && strings.HasSuffix(label, after)
}

// peerID is the SPIFFE ID of a leaf; the zero ID if it has none.
func peerID(leaf *x509.Certificate) spiffeid.ID {
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}
