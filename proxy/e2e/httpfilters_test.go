//go:build envoy

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// filtered is a listener whose connection manager has a filter before the
// router.
func filtered(name, filter, perRoute string) string {
	text := hcm(name, "", fmt.Sprintf(`
- name: all
  domains: ["*"]
  routes:
  - match: {prefix: /other}
    route: {cluster: h1}
%s
  - match: {prefix: /}
    route: {cluster: h1}
`, indent(perRoute, 4)))
	return strings.Replace(text, "http_filters: [{", "http_filters: ["+filter+", {", 1)
}

const typeOf = `"@type": type.googleapis.com/envoy.extensions.filters.http.`

func httpFilter(name, kind, body string) string {
	return fmt.Sprintf(`{name: %s, typed_config: {%s%s, %s}}`, name, typeOf, kind, body)
}

// signedBy is a key and its JWKS.
func signedBy(t *testing.T) (sign func(claims map[string]any) string, jwks string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256"}}})
	if err != nil {
		t.Fatal(err)
	}
	return func(claims map[string]any) string {
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}, string(set)
}

// authorizer answers checks of ext_authz over HTTP.
func authorizer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("x-ask") {
		case "yes":
			w.Header().Set("x-user", "alice")
			w.Header().Set("x-other", "not for upstream")
		case "error":
			w.WriteHeader(503)
		default:
			w.Header().Set("x-why", "no")
			w.WriteHeader(401)
			io.WriteString(w, "who are you?")
		}
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

func TestHTTPFiltersAreTheSameAsEnvoys(t *testing.T) {
	server, asked := origin(t), authorizer(t)
	sign, jwks := signedBy(t)
	now := time.Now()
	good := sign(map[string]any{"iss": "issuer", "sub": "alice", "aud": "me", "exp": now.Add(time.Hour).Unix(), "group": "g1"})
	expired := sign(map[string]any{"iss": "issuer", "aud": "me", "exp": now.Add(-time.Hour).Unix()})
	stranger := sign(map[string]any{"iss": "stranger", "aud": "me", "exp": now.Add(time.Hour).Unix()})
	otherAudience := sign(map[string]any{"iss": "issuer", "aud": "you", "exp": now.Add(time.Hour).Unix()})

	bootstrap := "static_resources:\n  listeners:" +
		filtered("rbac", httpFilter("rbac", "rbac.v3.RBAC", `
            rules: {action: ALLOW, policies: {
              get: {permissions: [{and_rules: {rules: [{header: {name: ":method", string_match: {exact: GET}}}, {url_path: {path: {prefix: /ok}}}]}}], principals: [{any: true}]},
              user: {permissions: [{any: true}], principals: [{header: {name: x-user, string_match: {exact: alice}}}]}}},
            shadow_rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}`),
			`typed_per_filter_config: {rbac: {`+typeOf+`rbac.v3.RBACPerRoute, rbac: {rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}}`) +
		filtered("cors", httpFilter("cors", "cors.v3.Cors", ""), `typed_per_filter_config: {cors: {`+typeOf+`cors.v3.CorsPolicy,
              allow_origin_string_match: [{exact: "https://good.example"}], allow_methods: "GET, PUT", allow_headers: "x-a", expose_headers: "x-b", max_age: "60", allow_credentials: true}}`) +
		filtered("fault", httpFilter("fault", "fault.v3.HTTPFault", `abort: {header_abort: {}, percentage: {numerator: 100}}, headers: [{name: x-fault, present_match: true}]`),
			`typed_per_filter_config: {fault: {`+typeOf+`fault.v3.HTTPFault, abort: {http_status: 418, percentage: {numerator: 100}}}}`) +
		filtered("health", httpFilter("health", "health_check.v3.HealthCheck", `pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /healthz}}]`), "") +
		filtered("limit", httpFilter("limit", "local_ratelimit.v3.LocalRateLimit", `stat_prefix: limited, token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 1000s},
              filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}, response_headers_to_add: [{header: {key: x-limited, value: "1"}}]`), "") +
		filtered("buffer", httpFilter("buffer", "buffer.v3.Buffer", `max_request_bytes: 10`), `typed_per_filter_config: {buffer: {`+typeOf+`buffer.v3.BufferPerRoute, disabled: true}}`) +
		filtered("mutate", httpFilter("mutate", "header_mutation.v3.HeaderMutation", `mutations: {request_mutations: [{remove: x-a}, {append: {header: {key: x-b, value: "b-%REQ(x-c)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}],
              response_mutations: [{append: {header: {key: x-r, value: "%RESPONSE_CODE%"}}}]}`), "") +
		filtered("jwt", httpFilter("jwt", "jwt_authn.v3.JwtAuthentication", `providers: {p: {issuer: issuer, audiences: [me], local_jwks: {inline_string: '`+jwks+`'}, forward: true,
              forward_payload_header: x-payload, claim_to_headers: [{header_name: x-group, claim_name: group}]}},
              rules: [{match: {prefix: /open}}, {match: {prefix: /maybe}, requires: {requires_any: {requirements: [{provider_name: p}, {allow_missing: {}}]}}}, {match: {prefix: /}, requires: {provider_name: p}}]`), "") +
		filtered("gzip", httpFilter("gzip", "compressor.v3.Compressor", `response_direction_config: {common_config: {min_content_length: 100}},
              compressor_library: {name: gzip, typed_config: {"@type": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip}}`), "") +
		filtered("authz", httpFilter("authz", "ext_authz.v3.ExtAuthz", `http_service: {server_uri: {uri: "http://authz", cluster: authz, timeout: 1s}, path_prefix: /check,
              authorization_request: {allowed_headers: {patterns: [{exact: x-ask}]}}, authorization_response: {allowed_upstream_headers: {patterns: [{exact: x-user}]}, allowed_client_headers: {patterns: [{exact: x-why}]}}}`),
			`typed_per_filter_config: {authz: {`+typeOf+`ext_authz.v3.ExtAuthzPerRoute, disabled: true}}`) +
		"\n  clusters:" + httpCluster("h1", server, "") + httpCluster("authz", asked, "")
	p := both(t, strings.ReplaceAll(bootstrap, ", }", "}"))

	for _, c := range []struct{ listener, name, raw string }{
		{"rbac", "allowed by path", get("/ok")}, {"rbac", "denied", get("/no")}, {"rbac", "allowed by header", get("/no", "x-user: alice")},
		{"rbac", "denied by the route", get("/other", "x-user: alice")},
		{"rbac", "denied gRPC", get("/no", "content-type: application/grpc")},
		{"cors", "preflight", "OPTIONS /other HTTP/1.1\r\nHost: a\r\nOrigin: https://good.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n"},
		{"cors", "preflight of a stranger", "OPTIONS /other HTTP/1.1\r\nHost: a\r\nOrigin: https://bad.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n"},
		{"cors", "request", get("/other", "Origin: https://good.example")}, {"cors", "no policy", get("/", "Origin: https://good.example")},
		{"fault", "by header", get("/", "x-fault: 1", "x-envoy-fault-abort-request: 503")}, {"fault", "none", get("/")}, {"fault", "by route", get("/other")},
		{"health", "answered", get("/healthz")}, {"health", "other", get("/x")},
		{"limit", "first", get("/1")}, {"limit", "second", get("/2")}, {"limit", "third", get("/3")}, {"limit", "gRPC", get("/4", "content-type: application/grpc")},
		{"buffer", "small", "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"},
		{"buffer", "chunked gets a length", "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"buffer", "too large", "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\nhello, world!!!"},
		{"buffer", "disabled", "POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\nhello, world!!!"},
		{"mutate", "both ways", get("/", "x-a: 1", "x-b: old", "x-c: c")},
		{"jwt", "missing", get("/")}, {"jwt", "good", get("/", "Authorization: Bearer "+good)}, {"jwt", "expired", get("/", "Authorization: Bearer "+expired)},
		{"jwt", "another issuer", get("/", "Authorization: Bearer "+stranger)}, {"jwt", "another audience", get("/", "Authorization: Bearer "+otherAudience)},
		{"jwt", "broken", get("/", "Authorization: Bearer a.b")}, {"jwt", "changed", get("/", "Authorization: Bearer "+good[:len(good)-4]+"AAAA")},
		{"jwt", "not asked for", get("/open")}, {"jwt", "may be missing", get("/maybe")}, {"jwt", "may be missing, is bad", get("/maybe", "Authorization: Bearer "+expired)},
		{"jwt", "in the query", get("/?access_token=" + good)},
		{"gzip", "small", get("/status/200", "Accept-Encoding: gzip")}, {"gzip", "not asked for", get("/big/1000")},
		{"authz", "yes", get("/", "x-ask: yes")}, {"authz", "no", get("/")}, {"authz", "error", get("/", "x-ask: error")}, {"authz", "not asked", get("/other")},
	} {
		t.Run(c.listener+": "+c.name, func(t *testing.T) {
			method, _, _ := strings.Cut(c.raw, " ")
			p.same(t, c.listener, func(addr string) []exchanged { return ask1(addr, c.raw, method) })
		})
	}
	for _, prefix := range []string{"http.rbac.", "http.cors.", "http.fault.", "http.health.", "http.limit.", "limited.", "http.buffer.", "http.jwt.", "http.authz."} {
		p.sameStats(t, prefix, "downstream_cx", "_active", "rq_time")
	}
	sameLogs(t, p)
}
