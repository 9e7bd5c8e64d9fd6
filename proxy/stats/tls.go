package stats

import (
	"errors"

	"outrider/certs"
	"outrider/tlsmux"
)

// TLS are the ssl.* metrics of a listener or a cluster.
type TLS struct {
	scope *Scope // "listener.0.0.0.0_80.ssl" or "cluster.a.ssl"

	connectionError, handshake, sessionReused, noCertificate *Counter
	noCert, verifyError, verifySAN, verifyHash               *Counter
}

// NewTLS makes the metrics under s, which is the listener's or the cluster's
// scope.
func NewTLS(s *Scope) *TLS {
	ssl := s.Scope("ssl")
	return &TLS{
		scope: ssl, connectionError: ssl.Counter("connection_error"), handshake: ssl.Counter("handshake"),
		sessionReused: ssl.Counter("session_reused"), noCertificate: ssl.Counter("no_certificate"),
		noCert: ssl.Counter("fail_verify_no_cert"), verifyError: ssl.Counter("fail_verify_error"),
		verifySAN: ssl.Counter("fail_verify_san"), verifyHash: ssl.Counter("fail_verify_cert_hash"),
	}
}

// Handshake counts a finished handshake, and the root that its peer was
// verified by: one whose count stands still is not needed any more.
func (t *TLS) Handshake(s *tlsmux.State) {
	t.handshake.Inc()
	if s.Resumed {
		t.sessionReused.Inc()
	}
	if len(s.Peer) == 0 {
		t.noCertificate.Inc()
	}
	t.scope.Valued("versions", "envoy_ssl_version", tlsmux.VersionName(s.Version)).Inc()
	t.scope.Valued("ciphers", "envoy_ssl_cipher", tlsmux.CipherName(s.CipherSuite)).Inc()
	if s.Root != nil {
		t.scope.Valued("verified_by_root", "outrider_root", certs.KeyID(s.Root)).Inc()
	}
	if s.Curve != 0 {
		t.scope.Valued("curves", "envoy_ssl_curve", tlsmux.GroupName(s.Curve)).Inc()
	}
}

// counted is an error that knows its ssl.* counter, which is one of
// connection_error, fail_verify_no_cert, fail_verify_error, fail_verify_san,
// fail_verify_cert_hash, or "" for none.
type counted interface{ SSLCounter() string }

// Failed counts a handshake that failed; what err does not say is a
// connection_error.
func (t *TLS) Failed(err error) {
	name := "connection_error"
	var c counted
	if errors.As(err, &c) {
		name = c.SSLCounter()
	}
	switch name {
	case "":
	case "fail_verify_no_cert":
		t.noCert.Inc()
	case "fail_verify_error":
		t.verifyError.Inc()
	case "fail_verify_san":
		t.verifySAN.Inc()
	case "fail_verify_cert_hash":
		t.verifyHash.Inc()
	default:
		t.connectionError.Inc()
	}
}
