package message

// Inline reports whether a message has at most one field of that name: of
// several that come or are added Envoy makes one, with commas between the
// values. Source: envoy/http/header_map.h and the custom inline headers.
func Inline(name string) bool {
	switch name {
	case "accept", "accept-encoding", "access-control-request-headers", "access-control-request-method", "authorization",
		"cache-control", "connection", "content-encoding", "content-length", "content-type", "date", "etag", "expect",
		"grpc-accept-encoding", "grpc-message", "grpc-status", "grpc-timeout", "keep-alive", "location", "origin",
		"proxy-connection", "proxy-status", "referer", "server", "te", "transfer-encoding", "upgrade", "user-agent", "vary", "via",
		"x-client-trace-id", "x-envoy-attempt-count", "x-envoy-decorator-operation", "x-envoy-downstream-service-cluster",
		"x-envoy-downstream-service-node", "x-envoy-expected-rq-timeout-ms", "x-envoy-external-address", "x-envoy-force-trace",
		"x-envoy-internal", "x-envoy-ip-tags", "x-envoy-max-retries", "x-envoy-original-path", "x-envoy-retry-grpc-on",
		"x-envoy-retry-on", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-ms",
		"x-envoy-upstream-service-time", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
		"x-forwarded-proto", "x-request-id":
		return true
	}
	return false
}
