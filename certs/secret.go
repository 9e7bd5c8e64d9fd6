// Package certs answers "who am I, and whom do I trust": key pairs, trust
// bundles and what is demanded of a peer's certificate, each a named secret
// that is replaced whole when it rotates and read anew at every handshake.
//
// A Ref is configuration (dead data), a Handle is the living secret behind it,
// a Store hands out Handles and feeds them from files, gRPC SDS or the
// configuration itself.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
)

// Secret is one version of one secret. It is immutable once published.
// Exactly one of KeyPair, Validation and TicketKeys is set.
type Secret struct {
	// Name is the resource name (Envoy: Secret.name); "" for an inline secret.
	Name string
	// Version is the xDS version_info, or a digest of the content for files
	// and inline secrets. It changes when, and only when, the content does.
	Version string
	// Updated is when this version was taken into use.
	Updated time.Time
	// From says where the secret came from, for people: "inline",
	// "file /etc/certs", "sds sds-grpc".
	From string

	KeyPair    *KeyPair
	Validation *Validation
	// TicketKeys are the session ticket keys, newest first. Each is derived
	// from the 80 bytes that Envoy's TlsSessionTicketKeys demands.
	TicketKeys [][32]byte

	// Source is the envoy.extensions.transport_sockets.tls.v3.Secret that this
	// was decoded from, for config_dump, with private keys still in it; nil
	// for inline secrets. Readers must redact it.
	Source proto.Message
}

// KeyPair is a certificate chain with its private key, checked to fit.
type KeyPair struct {
	// TLS is what crypto/tls presents; Leaf is always set.
	TLS tls.Certificate
	// ID is the SPIFFE ID of the leaf; the zero ID if it has none.
	ID spiffeid.ID
	// CertPath is the certificate's file name for /certs, "<inline>" else.
	CertPath string
}

// Validation is what is demanded of a peer's certificate
// (Envoy: CertificateValidationContext).
type Validation struct {
	// Roots are the trust anchors. An intermediate among them is an anchor
	// too, as with OpenSSL's X509_V_FLAG_PARTIAL_CHAIN. Empty means that no
	// chain is verified, which is only allowed with pinned hashes or when
	// no peer certificate is demanded.
	Roots []*x509.Certificate
	// RootsPath is the roots' file name for /certs, "<inline>" else.
	RootsPath string
	// CRLs are the revocation lists. If there is any, every CA of the chain
	// must have one (only the leaf's issuer with OnlyLeafCRL).
	CRLs        []*x509.RevocationList
	OnlyLeafCRL bool
	// SANs are alternatives: one that matches one SAN is enough. Empty
	// accepts any SAN.
	SANs []SANMatcher
	// SPKIHashes and CertHashes are alternatives to each other (SHA-256 of the
	// leaf's SubjectPublicKeyInfo, of its DER). Both empty accepts any.
	SPKIHashes [][32]byte
	CertHashes [][32]byte
	// AcceptUntrusted is trust_chain_verification ACCEPT_UNTRUSTED: the chain
	// is looked at, a failure is recorded, the connection goes on.
	AcceptUntrusted bool
	// AllowExpired is allow_expired_certificate.
	AllowExpired bool
	// MaxVerifyDepth is max_verify_depth; nil is the default (100).
	MaxVerifyDepth *uint32
	// TrustDomains, if not nil, is the SPIFFE validator
	// (envoy.tls.cert_validator.spiffe): each peer is verified with the bundle
	// of the trust domain of its own ID, and Roots is not used.
	TrustDomains map[spiffeid.TrustDomain][]*x509.Certificate
}

// SANType is the kind of a subject alternative name, with Envoy's numbers
// (SubjectAltNameMatcher.SanType). SANAny is the untyped, deprecated
// match_subject_alt_names, which is tried on DNS, URI, EMAIL and IP.
type SANType int

const (
	SANAny SANType = iota
	SANEmail
	SANDNS
	SANURI
	SANIP
)

// SANMatcher matches one subject alternative name (Envoy:
// SubjectAltNameMatcher).
type SANMatcher struct {
	Type  SANType
	Match StringMatcher
}

// Source says where dynamic resources come from (Envoy: ConfigSource): secrets
// here, listeners, clusters and endpoints in package config. Exactly one of
// Path, Cluster and ADS is set.
type Source struct {
	// Path is path_config_source.path; it is read again when it, or anything
	// in WatchedDirectory if that is set, is moved into place.
	Path             string
	WatchedDirectory string
	// Cluster is the gRPC cluster (api_config_source, envoy_grpc); Delta says
	// DELTA_GRPC rather than GRPC.
	Cluster string
	Delta   bool
	// ADS is ads: the aggregated stream of the bootstrap.
	ADS bool
	// InitialFetchTimeout is how long to wait for the first answer before
	// going on without; 0 waits for ever. The default is 15 s.
	InitialFetchTimeout time.Duration
	// SetNodeOnFirstMessageOnly is set_node_on_first_message_only.
	SetNodeOnFirstMessageOnly bool
	// Rate bounds the requests (rate_limit_settings); nil does not. A secret's
	// source has none.
	Rate *RateLimit
}

// RateLimit is a bucket of tokens, one for each request (Envoy:
// RateLimitSettings).
type RateLimit struct {
	Tokens    uint32
	PerSecond float64 // that come in; above 0
}

// Ref names a secret: either Inline (fixed for ever), or Name in Source, or,
// where Source is nil, Name among the bootstrap's static secrets.
// Two Refs are the same secret if Name and Source's Path, Cluster and ADS are equal.
type Ref struct {
	Inline *Secret
	Name   string
	Source *Source
}
