// Package tlsmux proves who we are and checks who the other side is: it
// terminates and originates TLS from Envoy's transport socket contexts, and it
// is the only place that builds a tls.Config. Every verification runs in
// VerifyConnection, so a resumed session is checked like a new one.
//
// It returns facts (a State, a HandshakeError); counting and logging them is
// the caller's.
package tlsmux

import (
	"crypto/tls"
	"time"

	"outrider/certs"
)

// CommonConfig is what both directions share (Envoy: CommonTlsContext).
type CommonConfig struct {
	// MinVersion and MaxVersion are tls.VersionTLS10 ... tls.VersionTLS13;
	// 0 is Envoy's default: 1.2 to 1.3 for a client and for a server.
	MinVersion, MaxVersion uint16
	// CipherSuites are for TLS 1.2 and before; nil is the default.
	CipherSuites []uint16
	// Curves are in order of preference; nil is the default.
	Curves []tls.CurveID
	// ALPN is what we offer, or as a server choose from; nil is none.
	ALPN []string
	// Certificates are the key pairs, one for each key type.
	Certificates []certs.Ref
	// Validation is the validation_context or the default_validation_context;
	// nil if there is none. ValidationRef, if not nil, is merged over it
	// (combined_validation_context), or stands alone
	// (validation_context_sds_secret_config).
	Validation    *certs.Validation
	ValidationRef *certs.Ref
	// KeyLogPath is key_log.path; "" is none.
	KeyLogPath string
}

// ServerConfig is a DownstreamTlsContext.
type ServerConfig struct {
	CommonConfig
	RequireClientCertificate bool
	RequireSNI               bool
	// DisableTickets is disable_stateless_session_resumption.
	DisableTickets bool
	// TicketKeys are session_ticket_keys; nil makes our own.
	TicketKeys *certs.Ref
	// SessionTimeout is session_timeout, how long a session may be resumed;
	// 0 is the default of 2 h.
	SessionTimeout time.Duration
	// FullScanCertificates is full_scan_certs_on_sni_mismatch: where no
	// certificate has the server name, the best of all and not the first.
	FullScanCertificates bool
	// PreferClientCiphers is prefer_client_ciphers; crypto/tls always chooses
	// the suite itself, so it is only kept for the dump.
	PreferClientCiphers bool
}

// ClientConfig is an UpstreamTlsContext.
type ClientConfig struct {
	CommonConfig
	// SNI goes out as it is, underscores included; "" sends none.
	SNI string
	// AutoHostSNI is auto_host_sni: the endpoint's host name, if it has one,
	// replaces SNI.
	AutoHostSNI bool
	// AutoSNISANValidation is auto_sni_san_validation: the SNI sent must be
	// among the peer's DNS names.
	AutoSNISANValidation bool
	// MaxSessionKeys is max_session_keys: how many sessions are kept for
	// resumption; 0 resumes none. The default is 1.
	MaxSessionKeys uint32
}
