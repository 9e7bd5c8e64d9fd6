package tlsmux

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// State is what a finished handshake established. It is immutable.
type State struct {
	Version     uint16 // tls.VersionTLS12, ...
	CipherSuite uint16
	Curve       tls.CurveID
	// SNI is the server name that the client sent.
	SNI string
	// ALPN is the negotiated protocol, "" if none.
	ALPN    string
	Resumed bool
	// Peer is the peer's chain, leaf first; nil if it presented none.
	Peer []*x509.Certificate
	// PeerID is the peer's SPIFFE ID; the zero ID if it has none.
	PeerID spiffeid.ID
	// PeerVerified says that the peer's chain was verified (false with
	// ACCEPT_UNTRUSTED after a failure, or with nothing to verify).
	PeerVerified bool
	// Root is the anchor that the peer's chain was found to lead to in this
	// handshake, a resumed one too; nil if no chain was verified. Under
	// allow_expired_certificate its dates are taken away.
	Root *x509.Certificate
	// PeerUntil is when the first certificate of that chain ends, the root's
	// included; zero if none was verified or may be expired.
	PeerUntil time.Time
	// Unverified is why verification failed, where the peer was accepted all
	// the same (ACCEPT_UNTRUSTED); nil else.
	Unverified *HandshakeError
	// Local is the certificate that we presented; nil if none.
	Local *x509.Certificate
	// SessionID is the TLS session ID in hex; "" where TLS has none (1.3), and
	// as crypto/tls does not tell it, for 1.2 too.
	SessionID string

	endpoint *endpoint // whose policy it was; nil in a State made by hand
}
