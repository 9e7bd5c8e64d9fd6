package stats

import (
	"fmt"
	"time"

	"outrider/certs"
)

// Envoy's names of what stands in a TLS context itself: it has no secret's
// name, and the digits are those of the SHA-256 of "".
const (
	unnamedCertificate = "unnamed_cert_e3b0c442"
	unnamedRoots       = "unnamed_ca_cert_e3b0c442"
)

// ShowExpiry sets ssl.certificate.<name>.expiration_unix_time_seconds under s,
// a listener's or a cluster's scope, for the secrets of its TLS contexts: the
// end of a certificate, of the first of some roots, of each root of the SPIFFE
// validator. Of several that have one name it is the first end.
func ShowExpiry(s *Scope, secrets []*certs.Handle) {
	ends := map[string]time.Time{}
	for _, h := range secrets {
		if secret, err := h.Current(); err == nil {
			addEnds(ends, h.Ref().Name, secret)
		}
	}
	scope := s.Scope("ssl").Scope("certificate")
	for name, end := range ends {
		scope.Tagged("envoy_tls_certificate", name).Gauge("expiration_unix_time_seconds").Set(end.Unix())
	}
}

func addEnds(ends map[string]time.Time, name string, secret *certs.Secret) {
	add := func(name string, end time.Time) {
		if first, ok := ends[name]; !ok || end.Before(first) {
			ends[name] = end
		}
	}
	switch v := secret.Validation; {
	case secret.KeyPair != nil:
		add(orUnnamed(name, unnamedCertificate), secret.KeyPair.TLS.Leaf.NotAfter)
	case v != nil && v.TrustDomains != nil:
		for i, root := range v.AllRoots() {
			add(fmt.Sprintf("%s_%d", orUnnamed(name, "unnamed_ca_cert"), i), root.NotAfter)
		}
	case v != nil:
		for _, root := range v.Roots {
			add(orUnnamed(name, unnamedRoots), root.NotAfter)
		}
	}
}

func orUnnamed(name, unnamed string) string {
	if name == "" {
		return unnamed
	}
	return name
}
