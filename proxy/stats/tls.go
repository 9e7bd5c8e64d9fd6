package stats

import (
	"crypto/tls"
	"errors"

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

// Handshake counts a finished handshake.
func (t *TLS) Handshake(s *tlsmux.State) {
	t.handshake.Inc()
	if s.Resumed {
		t.sessionReused.Inc()
	}
	if len(s.Peer) == 0 {
		t.noCertificate.Inc()
	}
	t.scope.Valued("versions", "envoy_ssl_version", versionName(s.Version)).Inc()
	t.scope.Valued("ciphers", "envoy_ssl_cipher", cipherName(s.CipherSuite)).Inc()
	if s.Curve != 0 {
		t.scope.Valued("curves", "envoy_ssl_curve", curveName(s.Curve)).Inc()
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

// versionName is BoringSSL's name of a version, which is Envoy's.
func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS10:
		return "TLSv1"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return tls.VersionName(v)
}

// cipherName is BoringSSL's SSL_CIPHER_get_name.
func cipherName(id uint16) string {
	switch id {
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-ECDSA-AES128-GCM-SHA256"
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-RSA-AES128-GCM-SHA256"
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-ECDSA-AES256-GCM-SHA384"
	case tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-RSA-AES256-GCM-SHA384"
	case tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-ECDSA-CHACHA20-POLY1305"
	case tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-RSA-CHACHA20-POLY1305"
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-ECDSA-AES128-SHA"
	case tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:
		return "ECDHE-RSA-AES128-SHA"
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-ECDSA-AES256-SHA"
	case tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:
		return "ECDHE-RSA-AES256-SHA"
	case tls.TLS_RSA_WITH_AES_128_GCM_SHA256:
		return "AES128-GCM-SHA256"
	case tls.TLS_RSA_WITH_AES_256_GCM_SHA384:
		return "AES256-GCM-SHA384"
	case tls.TLS_RSA_WITH_AES_128_CBC_SHA:
		return "AES128-SHA"
	case tls.TLS_RSA_WITH_AES_256_CBC_SHA:
		return "AES256-SHA"
	}
	return tls.CipherSuiteName(id) // TLS 1.3's are the same there
}

// curveName is BoringSSL's SSL_get_curve_name.
func curveName(id tls.CurveID) string {
	switch id {
	case tls.CurveP256:
		return "P-256"
	case tls.CurveP384:
		return "P-384"
	case tls.CurveP521:
		return "P-521"
	default:
		return id.String()
	}
}
