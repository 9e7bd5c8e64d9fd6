package tlsmux

import (
	"crypto/ecdsa"
	"crypto/tls"
	"strings"
)

// selector chooses among our certificates. Source: Envoy's
// default_tls_certificate_selector.cc.
type selector struct {
	pairs []tls.Certificate
	// names has for each DNS name of theirs the indices that have it, in order;
	// "*.a.b" stands as ".a.b". Names are in lower case.
	names map[string][]int
}

func newSelector(pairs []tls.Certificate) *selector {
	s := &selector{pairs: pairs, names: map[string][]int{}}
	for i := range pairs {
		leaf := leafOf(&pairs[i])
		names := leaf.DNSNames
		if len(leaf.DNSNames)+len(leaf.URIs)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) == 0 && leaf.Subject.CommonName != "" {
			names = []string{leaf.Subject.CommonName} // RFC 6125, section 6.4.4
		}
		for _, n := range names {
			n = strings.ToLower(n)
			if strings.HasPrefix(n, "*.") {
				n = n[1:]
			}
			s.names[n] = append(s.names[n], i)
		}
	}
	return s
}

// forServer is what a server presents: the certificates with the very name,
// else those with a wildcard for it, and among them ECDSA before RSA if the
// client knows it. Where none has the name it is the first, or with scan, as
// without a name, the best of all.
func (s *selector) forServer(hello *tls.ClientHelloInfo, scan bool) *tls.Certificate {
	if len(s.pairs) == 1 {
		return &s.pairs[0]
	}
	name := strings.ToLower(hello.ServerName)
	if name != "" {
		for _, key := range []string{name, wildcardOf(name)} {
			if p := s.best(hello, s.names[key]); p != nil {
				return p
			}
		}
		if !scan {
			return &s.pairs[0]
		}
	}
	all := make([]int, len(s.pairs))
	for i := range all {
		all[i] = i
	}
	if p := s.best(hello, all); p != nil {
		return p
	}
	return &s.pairs[0]
}

// wildcardOf is what stands for "*.b.c" in names, for "a.b.c".
func wildcardOf(name string) string {
	if i := strings.IndexByte(name, '.'); i > 0 && i < len(name)-1 {
		return name[i:]
	}
	return ""
}

// best is the first ECDSA one that the client can check, else the first of
// another kind; nil if there is neither.
func (s *selector) best(hello *tls.ClientHelloInfo, among []int) *tls.Certificate {
	anyName := *hello
	anyName.ServerName = ""
	var other *tls.Certificate
	for _, i := range among {
		p := &s.pairs[i]
		if _, ok := leafOf(p).PublicKey.(*ecdsa.PublicKey); !ok {
			if other == nil {
				other = p
			}
			continue
		}
		if anyName.SupportsCertificate(p) == nil {
			return p
		}
	}
	return other
}

// forClient is what a client presents: the first that the server can check and
// whose issuer it named, else the first, for the server to judge; nil if we
// have none.
func (s *selector) forClient(req *tls.CertificateRequestInfo) *tls.Certificate {
	for i := range s.pairs {
		if req.SupportsCertificate(&s.pairs[i]) == nil {
			return &s.pairs[i]
		}
	}
	return s.first()
}

func (s *selector) first() *tls.Certificate {
	if len(s.pairs) == 0 {
		return nil
	}
	return &s.pairs[0]
}
