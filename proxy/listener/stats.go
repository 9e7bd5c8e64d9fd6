package listener

import (
	"outrider/proxy/stats"
)

// filterStats count what the listener filters do, under Envoy's names, and
// ours: downstream_pre_cx_shed.
type filterStats struct {
	active                              *stats.Gauge   // listener.<address>.downstream_pre_cx_active
	timeout, remoteClose, failure, shed *stats.Counter // listener.<address>.*

	tlsFound, tlsNotFound, helloTooLarge           *stats.Counter // tls_inspector.*
	alpnFound, alpnNotFound, sniFound, sniNotFound *stats.Counter
	helloBytes                                     *stats.Histogram

	http10, http11, http2, httpNotFound *stats.Counter // http_inspector.*

	proxyError *stats.Counter // downstream_cx_proxy_proto_error
}

func newFilterStats(r *stats.Registry, listener *stats.Scope) *filterStats {
	tls, http := r.Scope("tls_inspector"), r.Scope("http_inspector")
	http.Counter("read_error") // never counted: a long request line is no reason to close
	return &filterStats{
		active:      listener.Gauge("downstream_pre_cx_active"),
		timeout:     listener.Counter("downstream_pre_cx_timeout"),
		remoteClose: listener.Counter("downstream_listener_filter_remote_close"),
		failure:     listener.Counter("downstream_listener_filter_error"),
		shed:        listener.Counter("downstream_pre_cx_shed"),

		tlsFound: tls.Counter("tls_found"), tlsNotFound: tls.Counter("tls_not_found"),
		helloTooLarge: tls.Counter("client_hello_too_large"),
		alpnFound:     tls.Counter("alpn_found"), alpnNotFound: tls.Counter("alpn_not_found"),
		sniFound: tls.Counter("sni_found"), sniNotFound: tls.Counter("sni_not_found"),
		helloBytes: tls.Histogram("bytes_processed"),

		http10: http.Counter("http10_found"), http11: http.Counter("http11_found"),
		http2: http.Counter("http2_found"), httpNotFound: http.Counter("http_not_found"),

		proxyError: r.Root().Counter("downstream_cx_proxy_proto_error"),
	}
}

// proxyStats are proxy_proto.[<stat_prefix>.]*
type proxyStats struct {
	notFoundAllowed, notFoundDisallowed *stats.Counter
	versions                            [3]versionStats // by version: 1, 2
}

type versionStats struct{ found, disallowed, failed *stats.Counter }

func newProxyStats(r *stats.Registry, prefix string) *proxyStats {
	scope := r.Scope("proxy_proto")
	if prefix != "" {
		scope = scope.Tagged("envoy_proxy_protocol_prefix", prefix)
	}
	out := &proxyStats{
		notFoundAllowed:    scope.Counter("not_found_allowed"),
		notFoundDisallowed: scope.Counter("not_found_disallowed"),
	}
	for v, name := range map[int]string{1: "v1", 2: "v2"} {
		version := scope.Scope("versions").Tagged("envoy_proxy_protocol_version", name)
		out.versions[v] = versionStats{version.Counter("found"), version.Counter("disallowed"), version.Counter("error")}
	}
	return out
}
