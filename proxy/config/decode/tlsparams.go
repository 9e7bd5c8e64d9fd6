package decode

import (
	"crypto/tls"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/tlsmux"
)

func tlsVersion(p tlsv3.TlsParameters_TlsProtocol) uint16 {
	switch p {
	case tlsv3.TlsParameters_TLSv1_0:
		return tls.VersionTLS10
	case tlsv3.TlsParameters_TLSv1_1:
		return tls.VersionTLS11
	case tlsv3.TlsParameters_TLSv1_2:
		return tls.VersionTLS12
	case tlsv3.TlsParameters_TLSv1_3:
		return tls.VersionTLS13
	}
	return 0
}

func (d *decoder) tlsParams(p *tlsv3.TlsParameters, out *tlsmux.CommonConfig, place at) {
	out.MinVersion = tlsVersion(p.GetTlsMinimumProtocolVersion())
	out.MaxVersion = tlsVersion(p.GetTlsMaximumProtocolVersion())
	low := out.MinVersion
	if low == 0 {
		low = tls.VersionTLS12 // the default for both sides (common.proto)
	}
	if out.MaxVersion != 0 && low > out.MaxVersion {
		place.in("tls_maximum_protocol_version").bad("%s is below the minimum, %s", tls.VersionName(out.MaxVersion), tls.VersionName(low))
	}
	for i, group := range p.GetCipherSuites() {
		out.CipherSuites = append(out.CipherSuites, d.cipherGroup(group, place.item("cipher_suites", i))...)
	}
	for i, name := range p.GetEcdhCurves() {
		curve, ok := curves[name]
		if !ok {
			place.item("ecdh_curves", i).bad("%q is not supported by outrider: it can be X25519, P-256, P-384, P-521, X25519MLKEM768", shorten(name))
		}
		out.Curves = append(out.Curves, curve)
	}
}

var curves = map[string]tls.CurveID{
	"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
	"X25519MLKEM768": tls.X25519MLKEM768,
}

// cipherGroup reads one entry of cipher_suites: a suite, or suites of equal
// preference in brackets, "[A|B]".
func (d *decoder) cipherGroup(group string, place at) []uint16 {
	names := []string{group}
	if inner, ok := strings.CutPrefix(group, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		if !closed {
			place.bad("%q has no closing bracket", shorten(group))
			return nil
		}
		names = strings.Split(inner, "|")
	}
	var out []uint16
	for _, name := range names {
		id, ok := cipherSuite(name)
		switch {
		case ok:
			out = append(out, id)
		case isTLS13(name):
			place.bad("%q is of TLS 1.3, whose suites cannot be chosen", name)
		default:
			place.bad("%q is not a cipher suite that outrider has", shorten(name))
		}
	}
	return out
}

// cipherSuite knows the suites of TLS 1.2 and before by OpenSSL's name and by
// IANA's.
func cipherSuite(name string) (uint16, bool) {
	if id, ok := opensslSuites[name]; ok {
		return id, true
	}
	for _, id := range opensslSuites {
		if tls.CipherSuiteName(id) == name {
			return id, true
		}
	}
	return 0, false
}

func isTLS13(name string) bool {
	return name == "TLS_AES_128_GCM_SHA256" || name == "TLS_AES_256_GCM_SHA384" || name == "TLS_CHACHA20_POLY1305_SHA256"
}

// opensslSuites are BoringSSL's names for what crypto/tls has.
var opensslSuites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES128-SHA256":       tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	"AES128-GCM-SHA256":             tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES256-GCM-SHA384":             tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES128-SHA":                    tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-SHA":                    tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}
