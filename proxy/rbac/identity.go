package rbac

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"

	"outrider/certs"
	"outrider/proxy/flow"
)

// facts are what rules are evaluated on.
type facts flow.Info

func (f *facts) destination() flow.Addr  { return f.Local }
func (f *facts) source() flow.Addr       { return f.Remote }
func (f *facts) directRemote() flow.Addr { return f.DirectRemote }

// peer is the certificate of an authenticated client; nil if it is not.
//
// Only a certificate that was verified authenticates. Envoy asks no more than
// that there is TLS: there, a client without a certificate is "authenticated"
// where no name is asked for, and one whose certificate was accepted untrusted
// has all names that it claims.
func (f *facts) peer() *x509.Certificate {
	s := f.Downstream
	if s == nil || !s.PeerVerified || len(s.Peer) == 0 {
		return nil
	}
	return s.Peer[0]
}

// String is the connection in a refusal: who came, from where, to what.
func (f *facts) String() string {
	s := fmt.Sprintf("peer %s from %s to %s", f.identity(), f.source(), f.destination())
	if f.SNI != "" {
		s += fmt.Sprintf(", server name %q", f.SNI)
	}
	if h := f.head(); h != nil {
		path, _ := f.path()
		s += fmt.Sprintf(", request %s %q %q", h.Method, h.Authority, path)
	}
	return s
}

// identity is who the client is, or why it is nobody.
func (f *facts) identity() string {
	s, cert := f.Downstream, f.peer()
	switch {
	case cert != nil:
		return shown(cert)
	case s == nil:
		return "without TLS"
	case len(s.Peer) == 0:
		return "without certificate"
	default:
		return "with an unverified certificate (" + shown(s.Peer[0]) + ")"
	}
}

// maxShown bounds what a peer can write into our log.
const maxShown = 4

func shown(cert *x509.Certificate) string {
	names := namesOf(cert)
	if more := len(names) - maxShown; more > 0 {
		names = append(names[:maxShown], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// namesOf is what the certificate is called by: URI SANs, then DNS SANs, then
// the subject.
func namesOf(cert *x509.Certificate) []string {
	var names []string
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	names = append(names, cert.DNSNames...)
	return append(names, subjectOf(cert))
}

// authenticated is Principal.authenticated. A nil name is any authenticated
// client. As in Envoy 1.40, each URI SAN, each DNS SAN and the subject is
// tried, whether there are others or not.
type authenticated struct{ name *certs.StringMatcher }

func (a authenticated) match(f *facts) bool {
	cert := f.peer()
	if cert == nil {
		return false
	}
	if a.name == nil {
		return true
	}
	for _, n := range namesOf(cert) {
		if a.name.Match(n) {
			return true
		}
	}
	return false
}

func (a authenticated) why(f *facts) string {
	return fmt.Sprintf("%s: the client is %s", a, f.identity())
}

func (a authenticated) String() string {
	if a.name == nil {
		return "authenticated"
	}
	return "principal_name " + a.name.String()
}

// subjectOf is the subject as OpenSSL prints it by RFC 2253, which is what
// principal names are written for: emailAddress=a@b,CN=x,O=acme.
func subjectOf(cert *x509.Certificate) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(cert.RawSubject, &rdns); err != nil || len(rest) > 0 {
		return cert.Subject.String()
	}
	var out []string
	for i := len(rdns) - 1; i >= 0; i-- {
		var set []string
		for j := len(rdns[i]) - 1; j >= 0; j-- {
			set = append(set, attribute(rdns[i][j]))
		}
		out = append(out, strings.Join(set, "+"))
	}
	return strings.Join(out, ",")
}

func attribute(a pkix.AttributeTypeAndValue) string {
	name := attributeName(a.Type.String())
	if text, ok := a.Value.(string); ok && name != "" {
		return name + "=" + escape(text)
	}
	der, err := asn1.Marshal(a.Value)
	if err != nil {
		der = nil
	}
	return a.Type.String() + "=#" + strings.ToUpper(hex.EncodeToString(der))
}

// attributeName is OpenSSL's short name; "" if it has none that is in use.
func attributeName(oid string) string {
	switch oid {
	case "2.5.4.3":
		return "CN"
	case "2.5.4.4":
		return "SN"
	case "2.5.4.5":
		return "serialNumber"
	case "2.5.4.6":
		return "C"
	case "2.5.4.7":
		return "L"
	case "2.5.4.8":
		return "ST"
	case "2.5.4.9":
		return "street"
	case "2.5.4.10":
		return "O"
	case "2.5.4.11":
		return "OU"
	case "2.5.4.12":
		return "title"
	case "2.5.4.17":
		return "postalCode"
	case "2.5.4.42":
		return "GN"
	case "0.9.2342.19200300.100.1.25":
		return "DC"
	case "0.9.2342.19200300.100.1.1":
		return "UID"
	case "1.2.840.113549.1.9.1":
		return "emailAddress"
	default:
		return ""
	}
}

// escape is RFC 2253, section 2.4. Bytes outside ASCII are escaped as well, as
// XN_FLAG_RFC2253 does.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&b, "\\%02X", c)
		case strings.IndexByte(`,+"\<>;`, c) >= 0,
			c == ' ' && (i == 0 || i == len(s)-1), c == '#' && i == 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
