package sdsserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs"
)

// Secret is a secret as Envoy's message, everything inline: certificates in
// PEM, the key as PKCS #8. What the message cannot say is an error, and so is a
// validation context that would accept anyone.
func Secret(s *certs.Secret) (*tlsv3.Secret, error) {
	switch {
	case s.KeyPair != nil:
		pair, err := keyPair(s.KeyPair)
		return &tlsv3.Secret{Name: s.Name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: pair}}, err
	case s.Validation != nil:
		v, err := validation(s.Validation)
		return &tlsv3.Secret{Name: s.Name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: v}}, err
	}
	return nil, errors.New("it is neither a key pair nor a validation context")
}

func keyPair(p *certs.KeyPair) (*tlsv3.TlsCertificate, error) {
	key, err := x509.MarshalPKCS8PrivateKey(p.TLS.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("its private key: %w", err)
	}
	var chain bytes.Buffer
	for _, der := range p.TLS.Certificate {
		chain.Write(encode("CERTIFICATE", der))
	}
	return &tlsv3.TlsCertificate{CertificateChain: inline(chain.Bytes()), PrivateKey: inline(encode("PRIVATE KEY", key))}, nil
}

// doubt is what a client may not refuse, though it cannot use it; "" is nothing.
// Envoy 1.40 acknowledges an Ed25519 key, and then every handshake fails: BoringSSL
// offers no such signature unless it is told to. outrider can use one, with
// peers that can.
func doubt(s *certs.Secret) string {
	if s.KeyPair == nil || s.KeyPair.TLS.Leaf == nil {
		return ""
	}
	if _, odd := s.KeyPair.TLS.Leaf.PublicKey.(ed25519.PublicKey); odd {
		return "its key is Ed25519: Envoy takes it without a word, and can then shake hands with nobody"
	}
	return ""
}

// spiffeValidator is the extension that verifies each peer with the bundle of
// its own trust domain (Envoy, and SPIRE for federated workloads).
const spiffeValidator = "envoy.tls.cert_validator.spiffe"

func validation(v *certs.Validation) (*tlsv3.CertificateValidationContext, error) {
	if !v.Verifies() {
		return nil, errors.New("it has nothing to verify a peer with")
	}
	out := &tlsv3.CertificateValidationContext{
		OnlyVerifyLeafCertCrl:   v.OnlyLeafCRL,
		AllowExpiredCertificate: v.AllowExpired,
	}
	if v.AcceptUntrusted {
		out.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	if v.MaxVerifyDepth != nil {
		out.MaxVerifyDepth = wrapperspb.UInt32(*v.MaxVerifyDepth)
	}
	if len(v.CRLs) > 0 {
		var lists bytes.Buffer
		for _, l := range v.CRLs {
			lists.Write(encode("X509 CRL", l.Raw))
		}
		out.Crl = inline(lists.Bytes())
	}
	for _, sum := range v.SPKIHashes {
		out.VerifyCertificateSpki = append(out.VerifyCertificateSpki, base64.StdEncoding.EncodeToString(sum[:]))
	}
	for _, sum := range v.CertHashes {
		out.VerifyCertificateHash = append(out.VerifyCertificateHash, hex.EncodeToString(sum[:]))
	}
	for _, san := range v.SANs {
		out.MatchTypedSubjectAltNames = append(out.MatchTypedSubjectAltNames, sanMatchers(san)...)
	}
	if v.TrustDomains != nil {
		err := trustDomains(v, out)
		return out, err
	}
	if len(v.Roots) > 0 {
		out.TrustedCa = inline(bundle(v.Roots))
	}
	return out, nil
}

// trustDomains adds the SPIFFE validator, as SPIRE does it. Envoy's looks at
// the SANs and at allow_expired_certificate besides, and at nothing else
// (spiffe_validator.cc), so that a list of what is revoked would be no more than
// a promise.
func trustDomains(v *certs.Validation, out *tlsv3.CertificateValidationContext) error {
	if len(v.CRLs)+len(v.SPKIHashes)+len(v.CertHashes) > 0 || v.MaxVerifyDepth != nil || v.AcceptUntrusted {
		return errors.New("it has a revocation list, a hash, a depth or ACCEPT_UNTRUSTED, which Envoy's SPIFFE validator does not look at")
	}
	if len(v.TrustDomains) == 0 {
		return errors.New("it has no trust domain")
	}
	cfg := &tlsv3.SPIFFECertValidatorConfig{}
	for _, td := range slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare) {
		roots := v.TrustDomains[td]
		if len(roots) == 0 {
			return fmt.Errorf("trust domain %q has no roots", td)
		}
		cfg.TrustDomains = append(cfg.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{Name: td.Name(), TrustBundle: inline(bundle(roots))})
	}
	packed, err := anypb.New(cfg)
	out.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: packed}
	return err
}

// sanMatchers is one matcher as typed ones. The untyped kind is tried on every
// type; Envoy has a field for it, but ignores that beside typed ones.
func sanMatchers(m certs.SANMatcher) []*tlsv3.SubjectAltNameMatcher {
	types := []certs.SANType{m.Type}
	if m.Type == certs.SANAny {
		types = []certs.SANType{certs.SANEmail, certs.SANDNS, certs.SANURI, certs.SANIP}
	}
	var out []*tlsv3.SubjectAltNameMatcher
	for _, t := range types {
		out = append(out, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_SanType(t), // SANType has Envoy's numbers
			Matcher: stringMatcher(m.Match),
		})
	}
	return out
}

func stringMatcher(m certs.StringMatcher) *matcherv3.StringMatcher {
	out := &matcherv3.StringMatcher{IgnoreCase: m.IgnoreCase}
	switch m.Kind {
	case certs.MatchPrefix:
		out.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: m.Pattern}
	case certs.MatchSuffix:
		out.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: m.Pattern}
	case certs.MatchContains:
		out.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: m.Pattern}
	case certs.MatchRegex:
		out.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Pattern}}
	default:
		out.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: m.Pattern}
	}
	return out
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
