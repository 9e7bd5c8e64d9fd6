package admin

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"outrider/certs"
)

// certs answers /certs: one element a secret, where Envoy has one a TLS
// context, and every root of a bundle, where Envoy has the first.
func (a *handler) certs(w http.ResponseWriter, _ *http.Request) {
	out := &adminv3.Certificates{}
	for _, h := range append(a.opts.Inline(), a.opts.Secrets()...) {
		secret, err := h.Current()
		if err != nil {
			continue
		}
		if one := certificate(secret); one != nil {
			out.Certificates = append(out.Certificates, one)
		}
	}
	answerJSON(w, out, true)
}

// certificate is nil for a secret without certificates.
func certificate(s *certs.Secret) *adminv3.Certificate {
	out := &adminv3.Certificate{}
	if k := s.KeyPair; k != nil {
		out.CertChain = append(out.CertChain, details(k.TLS.Leaf, k.CertPath))
	}
	if v := s.Validation; v != nil {
		for _, root := range v.Roots {
			out.CaCert = append(out.CaCert, details(root, v.RootsPath))
		}
		domains := slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare)
		for _, domain := range domains {
			for _, root := range v.TrustDomains[domain] {
				out.CaCert = append(out.CaCert, details(root, v.RootsPath))
			}
		}
	}
	if out.CertChain == nil && out.CaCert == nil {
		return nil
	}
	return out
}

func details(c *x509.Certificate, path string) *adminv3.CertificateDetails {
	out := &adminv3.CertificateDetails{
		Path: path, SerialNumber: fmt.Sprintf("%x", c.SerialNumber.Bytes()),
		DaysUntilExpiration: uint64(max(time.Until(c.NotAfter)/(24*time.Hour), 0)),
		ValidFrom:           timestamppb.New(c.NotBefore), ExpirationTime: timestamppb.New(c.NotAfter),
	}
	for _, d := range c.DNSNames {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: d}})
	}
	for _, u := range c.URIs {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: u.String()}})
	}
	for _, ip := range c.IPAddresses {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: ip.String()}})
	}
	return out
}
