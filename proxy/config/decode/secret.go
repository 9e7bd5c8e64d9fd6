package decode

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// content is a secret that fill decodes from m. Its version is a digest of m
// and of all that fill reads.
func (d *decoder) content(m proto.Message, fill func(*certs.Secret)) *certs.Secret {
	outer := d.sum
	d.sum = sha256.New()
	defer func() { d.sum = outer }()
	s := &certs.Secret{From: "inline", Updated: d.now, Source: m}
	fill(s)
	d.sum.Write([]byte(digest(m)))
	s.Version = hex.EncodeToString(d.sum.Sum(nil))
	return s
}

func (d *decoder) secret(s *tlsv3.Secret, from string, place at) *certs.Secret {
	out := d.content(s, func(out *certs.Secret) {
		switch v := s.GetType().(type) {
		case *tlsv3.Secret_TlsCertificate:
			out.KeyPair = d.keyPair(v.TlsCertificate, place.in("tls_certificate"))
		case *tlsv3.Secret_ValidationContext:
			out.Validation = d.validation(v.ValidationContext, place.in("validation_context"))
		case *tlsv3.Secret_SessionTicketKeys:
			out.TicketKeys = d.ticketKeys(v.SessionTicketKeys, place.in("session_ticket_keys"))
		case *tlsv3.Secret_GenericSecret:
			place.in("generic_secret").bad("is not supported by outrider")
		default:
			place.bad("one of tls_certificate, validation_context, session_ticket_keys must be set")
		}
	})
	out.Name, out.From = s.GetName(), from
	return out
}

func (d *decoder) keyPair(c *tlsv3.TlsCertificate, place at) *certs.KeyPair {
	chain, path, ok := d.data(c.GetCertificateChain(), place.in("certificate_chain"))
	key, _, keyOK := d.data(c.GetPrivateKey(), place.in("private_key"))
	if !ok || !keyOK {
		return nil
	}
	pair, err := certs.ParseKeyPair(chain, key)
	if err != nil {
		place.bad("%v", err)
		return nil
	}
	pair.CertPath = pathOrInline(path)
	return pair
}

// ticketKeySize is what Envoy demands: a name of 16 bytes, 32 of HMAC, 32 of
// AES (TlsSessionTicketKeys).
const ticketKeySize = 80

func (d *decoder) ticketKeys(k *tlsv3.TlsSessionTicketKeys, place at) [][32]byte {
	var out [][32]byte
	for i, s := range k.GetKeys() {
		in := place.item("keys", i)
		key, _, ok := d.data(s, in)
		if ok && len(key) != ticketKeySize {
			contentOf(s, in).bad("has %d bytes: a session ticket key has %d", len(key), ticketKeySize)
		}
		out = append(out, sha256.Sum256(key))
	}
	return out
}

func (d *decoder) validation(c *tlsv3.CertificateValidationContext, place at) *certs.Validation {
	out := &certs.Validation{
		OnlyLeafCRL:     c.GetOnlyVerifyLeafCertCrl(),
		AcceptUntrusted: c.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED,
		AllowExpired:    c.GetAllowExpiredCertificate(),
	}
	if c.GetMaxVerifyDepth() != nil {
		depth := c.GetMaxVerifyDepth().GetValue()
		out.MaxVerifyDepth = &depth
	}
	if ca := c.GetTrustedCa(); ca != nil {
		out.Roots, out.RootsPath = d.roots(ca, place.in("trusted_ca"))
	}
	if crl := c.GetCrl(); crl != nil {
		in := place.in("crl")
		if text, _, ok := d.data(crl, in); ok {
			lists, err := certs.ParseCRLs(text)
			if err != nil {
				contentOf(crl, in).bad("%v", err)
			}
			out.CRLs = lists
		}
	}
	for i, pin := range c.GetVerifyCertificateSpki() {
		sum, err := base64.StdEncoding.DecodeString(pin)
		out.SPKIHashes = append(out.SPKIHashes, hash32(sum, err, pin, "base64", place.item("verify_certificate_spki", i)))
	}
	for i, pin := range c.GetVerifyCertificateHash() {
		sum, err := hex.DecodeString(strings.ReplaceAll(pin, ":", ""))
		out.CertHashes = append(out.CertHashes, hash32(sum, err, pin, "hexadecimal", place.item("verify_certificate_hash", i)))
	}
	out.SANs = d.sanMatchers(c, place)
	if v := c.GetCustomValidatorConfig(); v != nil {
		out.TrustDomains = d.validator(v, place.in("custom_validator_config"))
	}
	return out
}

func hash32(sum []byte, err error, text, encoding string, place at) [32]byte {
	if err != nil || len(sum) != 32 {
		place.bad("%q is not a SHA-256 digest in %s", shorten(text), encoding)
		return [32]byte{}
	}
	return [32]byte(sum)
}

func (d *decoder) roots(s *corev3.DataSource, place at) ([]*x509.Certificate, string) {
	text, path, ok := d.data(s, place)
	if !ok {
		return nil, ""
	}
	roots, err := certs.ParseRoots(text)
	if err != nil {
		contentOf(s, place).bad("%v", err)
	}
	return roots, pathOrInline(path)
}

// sanMatchers are the typed matchers; the untyped ones count only where there
// are none, as in Envoy.
func (d *decoder) sanMatchers(c *tlsv3.CertificateValidationContext, place at) []certs.SANMatcher {
	var out []certs.SANMatcher
	for i, m := range c.GetMatchTypedSubjectAltNames() {
		in := place.item("match_typed_subject_alt_names", i)
		kind, ok := sanTypes[m.GetSanType()]
		if !ok {
			in.in("san_type").bad("%s is not supported by outrider", m.GetSanType())
		}
		out = append(out, certs.SANMatcher{Type: kind, Match: *d.stringMatcher(m.GetMatcher(), in.in("matcher"))})
	}
	typed := len(out) > 0
	if typed && len(c.GetMatchSubjectAltNames()) > 0 {
		d.warn(place.in("match_subject_alt_names"), "has no effect beside match_typed_subject_alt_names")
	}
	for i, m := range c.GetMatchSubjectAltNames() {
		match := d.stringMatcher(m, place.item("match_subject_alt_names", i))
		if !typed {
			out = append(out, certs.SANMatcher{Type: certs.SANAny, Match: *match})
		}
	}
	return out
}

var sanTypes = map[tlsv3.SubjectAltNameMatcher_SanType]certs.SANType{
	tlsv3.SubjectAltNameMatcher_EMAIL:      certs.SANEmail,
	tlsv3.SubjectAltNameMatcher_DNS:        certs.SANDNS,
	tlsv3.SubjectAltNameMatcher_URI:        certs.SANURI,
	tlsv3.SubjectAltNameMatcher_IP_ADDRESS: certs.SANIP,
}

// validator is the SPIFFE validator's bundles by trust domain.
func (d *decoder) validator(v *corev3.TypedExtensionConfig, place at) map[spiffeid.TrustDomain][]*x509.Certificate {
	out := map[spiffeid.TrustDomain][]*x509.Certificate{}
	place = place.in("typed_config")
	c, ok := d.open(anyOf(v, place), place).(*tlsv3.SPIFFECertValidatorConfig)
	if !ok {
		place.bad("extension %q is not supported by outrider", v.GetName())
		return out
	}
	if s := c.GetTrustBundles(); s != nil {
		d.spiffeBundles(s, out, place.in("trust_bundles"))
		return out
	}
	for i, one := range c.GetTrustDomains() {
		in := place.item("trust_domains", i)
		td, err := spiffeid.TrustDomainFromString(one.GetName())
		switch {
		case err != nil || strings.Contains(one.GetName(), "/"):
			in.in("name").bad("%q is not the name of a trust domain", one.GetName())
		case out[td] != nil:
			in.in("name").bad("%q is there twice", one.GetName())
		}
		roots, _ := d.roots(one.GetTrustBundle(), in.in("trust_bundle"))
		out[td] = slices.Concat([]*x509.Certificate{}, roots)
	}
	if len(out) == 0 {
		place.bad("one of trust_domains, trust_bundles must be set")
	}
	return out
}

// spiffeBundles reads {"trust_domains": {NAME: a SPIFFE bundle document}}.
func (d *decoder) spiffeBundles(s *corev3.DataSource, out map[spiffeid.TrustDomain][]*x509.Certificate, place at) {
	text, _, ok := d.data(s, place)
	if !ok {
		return
	}
	in := contentOf(s, place)
	var doc struct {
		TrustDomains map[string]json.RawMessage `json:"trust_domains"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		in.bad("%v", err)
		return
	}
	if len(doc.TrustDomains) == 0 {
		in.bad("has no trust_domains")
	}
	for _, name := range sortedKeys(doc.TrustDomains) {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			in.bad("%q is not the name of a trust domain", name)
			continue
		}
		bundle, err := spiffebundle.Read(td, bytes.NewReader(doc.TrustDomains[name]))
		switch {
		case err != nil:
			in.bad("bundle of trust domain %q: %v", name, err)
		case len(bundle.X509Authorities()) == 0:
			in.bad("bundle of trust domain %q: there is no certificate in it", name)
		default:
			out[td] = bundle.X509Authorities()
		}
	}
}

// anyOf is the typed_config of v; one that is missing is reported.
func anyOf(v interface{ GetTypedConfig() *anypb.Any }, place at) *anypb.Any {
	a := v.GetTypedConfig()
	if a == nil {
		place.bad("is missing: an extension is known by the type of its typed_config")
		return &anypb.Any{}
	}
	return a
}

// SecretFiles are the files that a secret reads, and the directory to watch
// for them: watched_directory if that is set, else "" for their own.
func SecretFiles(s *tlsv3.Secret) (files []string, watched string) {
	add := func(sources ...*corev3.DataSource) {
		for _, source := range sources {
			if f := source.GetFilename(); f != "" {
				files = append(files, filepath.Clean(f))
			}
		}
	}
	switch v := s.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		add(v.TlsCertificate.GetCertificateChain(), v.TlsCertificate.GetPrivateKey())
		watched = v.TlsCertificate.GetWatchedDirectory().GetPath()
	case *tlsv3.Secret_ValidationContext:
		add(v.ValidationContext.GetTrustedCa(), v.ValidationContext.GetCrl())
		watched = v.ValidationContext.GetWatchedDirectory().GetPath()
	case *tlsv3.Secret_SessionTicketKeys:
		add(v.SessionTicketKeys.GetKeys()...)
	}
	return files, watched
}
