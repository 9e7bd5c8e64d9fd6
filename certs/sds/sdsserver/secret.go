package sdsserver

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// Secret is a secret as Envoy's message, everything inline: certificates in
// PEM, the key as PKCS #8. Only what an agent hands out is carried over: a key
// pair, or roots with their revocation lists. Anything else is an error.
func Secret(s *certs.Secret) (*tlsv3.Secret, error) {
	out := &tlsv3.Secret{Name: s.Name}
	switch {
	case s.KeyPair != nil:
		key, err := x509.MarshalPKCS8PrivateKey(s.KeyPair.TLS.PrivateKey)
		if err != nil {
			return nil, err
		}
		var chain bytes.Buffer
		for _, der := range s.KeyPair.TLS.Certificate {
			chain.Write(encode("CERTIFICATE", der))
		}
		out.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(chain.Bytes()), PrivateKey: inline(encode("PRIVATE KEY", key)),
		}}
	case s.Validation != nil:
		v, err := validation(s.Validation)
		if err != nil {
			return nil, err
		}
		out.Type = &tlsv3.Secret_ValidationContext{ValidationContext: v}
	default:
		return nil, errors.New("it is neither a key pair nor roots")
	}
	return out, nil
}

// spiffeValidator is the extension that verifies each peer with the bundle of
// its own trust domain (Envoy, and SPIRE for federated workloads).
const spiffeValidator = "envoy.tls.cert_validator.spiffe"

func validation(v *certs.Validation) (*tlsv3.CertificateValidationContext, error) {
	if len(v.SANs) > 0 || len(v.SPKIHashes) > 0 || len(v.CertHashes) > 0 || v.AcceptUntrusted || v.AllowExpired || v.MaxVerifyDepth != nil {
		return nil, errors.New("it demands more than roots, which is the proxy's own matter")
	}
	out := &tlsv3.CertificateValidationContext{OnlyVerifyLeafCertCrl: v.OnlyLeafCRL}
	if len(v.CRLs) > 0 {
		var lists bytes.Buffer
		for _, l := range v.CRLs {
			lists.Write(encode("X509 CRL", l.Raw))
		}
		out.Crl = inline(lists.Bytes())
	}
	if v.TrustDomains == nil {
		if len(v.Roots) == 0 {
			return nil, errors.New("it has no roots")
		}
		out.TrustedCa = inline(bundle(v.Roots))
		return out, nil
	}
	cfg := &tlsv3.SPIFFECertValidatorConfig{}
	for _, td := range slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare) {
		cfg.TrustDomains = append(cfg.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{Name: td.Name(), TrustBundle: inline(bundle(v.TrustDomains[td]))})
	}
	packed, err := anypb.New(cfg)
	out.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: packed}
	return out, err
}

func bundle(roots []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range roots {
		out.Write(encode("CERTIFICATE", c.Raw))
	}
	return out.Bytes()
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
