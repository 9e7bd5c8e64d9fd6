package stats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"outrider/tlsmux"
)

type verifyFailure string

func (e verifyFailure) Error() string      { return "no" }
func (e verifyFailure) SSLCounter() string { return string(e) }

func TestTLSCountsUnderEnvoysNames(t *testing.T) {
	r := New()
	s := r.Scope("cluster").Tagged("envoy_cluster_name", "a")
	m := NewTLS(s)
	m.Handshake(&tlsmux.State{
		Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, Curve: tls.CurveP256, Resumed: true,
		Root: &x509.Certificate{SubjectKeyId: []byte{10, 11}},
	})
	m.Failed(errors.New("reset"))
	m.Failed(verifyFailure("fail_verify_san"))
	m.Failed(verifyFailure(""))
	for _, name := range []string{
		"handshake", "session_reused", "no_certificate", "connection_error", "fail_verify_san",
		"verified_by_root.0a0b", "versions.TLSv1.2", "ciphers.ECDHE-RSA-AES128-GCM-SHA256", "curves.P-256",
	} {
		if n := s.Scope("ssl").Counter(name).Value(); n != 1 {
			t.Errorf("ssl.%s %d, want 1", name, n)
		}
	}
}
