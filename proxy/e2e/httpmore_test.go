//go:build envoy

package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrider/certs/ca"
)

const toOrigin = `
- name: all
  domains: ["*"]
  routes:
  - {match: {prefix: /}, route: {cluster: h1}}
`

func withOrigin(t *testing.T, listeners ...string) string {
	return "static_resources:\n  listeners:" + strings.Join(listeners, "") + "  clusters:" + httpCluster("h1", origin(t), "")
}

// How the connection manager's options change what goes through.
func TestOptionsOfTheConnectionManagerAreTheSameAsEnvoys(t *testing.T) {
	p := both(t, withOrigin(t,
		hcm("edge", "use_remote_address: true\nvia: hop\nserver_name: other", toOrigin),
		hcm("hops", "use_remote_address: true\nxff_num_trusted_hops: 1\nserver_header_transformation: APPEND_IF_ABSENT\nappend_x_forwarded_port: true", toOrigin),
		hcm("inner", "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}\nserver_header_transformation: PASS_THROUGH\nskip_xff_append: true", toOrigin),
		hcm("paths", "normalize_path: true\nmerge_slashes: true\npath_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT\nstrip_any_host_port: true", toOrigin),
		hcm("reject", "normalize_path: true\npath_with_escaped_slashes_action: REJECT_REQUEST\ncommon_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}", toOrigin),
		hcm("old", "http_protocol_options: {accept_http_10: true, default_host_for_http_10: ten.example}\nalways_set_request_id_in_response: true\npreserve_external_request_id: true", toOrigin),
		hcm("bare", "generate_request_id: false\ncommon_http_protocol_options: {headers_with_underscores_action: DROP_HEADER, max_headers_count: 10}\nmax_request_headers_kb: 2", toOrigin),
		hcm("mapped", "local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: k}}}}, status_code: 410, headers_to_add: [{header: {key: x-mapped, value: \"%RESPONSE_CODE%\"}}], body: {inline_string: gone}}], body_format: {json_format: {code: \"%RESPONSE_CODE%\", body: \"%LOCAL_REPLY_BODY%\", path: \"%REQ(:PATH)%\"}}}", `
- {name: all, domains: ["a.example"], routes: [{match: {prefix: /x}, route: {cluster: h1}}]}
`)))
	many := make([]string, 20)
	for i := range many {
		many[i] = fmt.Sprintf("x-%d: y", i)
	}
	for _, c := range []struct{ listener, name, raw string }{
		{"edge", "x-forwarded-for", get("/", "x-forwarded-for: 1.2.3.4, 5.6.7.8", "x-forwarded-proto: https", "x-request-id: abc", "via: 1.1 x")},
		{"edge", "none", get("/")},
		{"hops", "one hop", get("/", "x-forwarded-for: 1.2.3.4, 5.6.7.8", "x-forwarded-proto: https")},
		{"hops", "broken", get("/", "x-forwarded-for: nonsense")},
		{"hops", "server of the origin", get("/?set-server=origin")},
		{"inner", "internal", get("/", "x-forwarded-for: 10.9.9.9", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 1")},
		{"inner", "two addresses", get("/", "x-forwarded-for: 10.9.9.9, 10.1.1.1", "x-envoy-retry-on: 5xx")},
		{"inner", "server of the origin", get("/?set-server=origin")},
		{"paths", "dots", get("/a/../b/./c?x=../y")}, {"paths", "slashes", get("/a//b///c")}, {"paths", "escaped slash", get("/a%2Fb%5cc")},
		{"paths", "escaped letters", get("/%61%7e%2e%2e/x")}, {"paths", "above the root", get("/../../x")}, {"paths", "backslash", get(`/a\b`)},
		{"paths", "broken escape", get("/a%zz")}, {"paths", "host with port", "GET / HTTP/1.1\r\nHost: a.example:123\r\n\r\n"},
		{"reject", "escaped slash", get("/a%2fb")}, {"reject", "underscore", get("/", "x_y: 1")}, {"reject", "fine", get("/a/b")},
		{"old", "HTTP/1.0", "GET / HTTP/1.0\r\n\r\n"}, {"old", "HTTP/1.0 kept alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"},
		{"old", "request ID", get("/", "x-request-id: mine")},
		{"bare", "underscore", get("/", "x_y: 1", "x-z: 2")}, {"bare", "too many fields", get("/", many...)}, {"bare", "too large", get("/", "x-large: "+strings.Repeat("x", 3000))},
		{"mapped", "no virtual host", "GET /y HTTP/1.1\r\nHost: other\r\n\r\n"}, {"mapped", "no route", get("/y")}, {"mapped", "through", get("/x")},
	} {
		t.Run(c.listener+": "+c.name, func(t *testing.T) {
			p.same(t, c.listener, func(addr string) []exchanged { return ask1(addr, c.raw, "GET") })
		})
	}
	t.Run("pipelined", func(t *testing.T) {
		raw := get("/1") + "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + get("/3", "Connection: close") + get("/4")
		p.same(t, "inner", func(addr string) []exchanged { return ask1(addr, raw, "GET", "POST", "GET", "GET") })
	})
	sameLogs(t, p)
}

// What is taken of a response's head, where it is configured and where it is not.
func TestLargeHeadsOfResponsesAreTakenAsByEnvoy(t *testing.T) {
	o := origin(t)
	limited := strings.Replace(speaksHTTP2, "explicit_http_config: {http2_protocol_options: {}}", "common_http_protocol_options: {max_response_headers_kb: 90}\n    explicit_http_config: {http_protocol_options: {}}", 1)
	p := both(t, "static_resources:\n  listeners:"+hcm("heads", "", `
- name: all
  domains: ["*"]
  routes:
  - {match: {prefix: /, headers: [{name: x-to, string_match: {exact: two}}]}, route: {cluster: two}}
  - {match: {prefix: /, headers: [{name: x-to, string_match: {exact: limited}}]}, route: {cluster: limited}}
  - {match: {prefix: /}, route: {cluster: one}}
`)+"  clusters:"+httpCluster("one", o, "")+httpCluster("two", o, speaksHTTP2)+httpCluster("limited", o, limited))
	for _, c := range []struct {
		to   string
		size int
	}{{"one", 55_000}, {"one", 75_000}, {"one", 85_000}, {"two", 55_000}, {"two", 63_000}, {"limited", 85_000}, {"limited", 95_000}} {
		t.Run(fmt.Sprintf("%s %d", c.to, c.size), func(t *testing.T) {
			p.same(t, "heads", func(addr string) []exchanged {
				return ask1(addr, get(fmt.Sprintf("/head/%d", c.size), "x-to: "+c.to), "GET")
			})
		})
	}
	sameLogs(t, p)
}

// A client that is too slow with its request's head.
func TestSlowHeadsOfRequestsEndAsEnvoys(t *testing.T) {
	p := both(t, withOrigin(t, hcm("slow", "request_headers_timeout: 0.3s", toOrigin)))
	p.same(t, "slow", func(addr string) []exchanged { return ask1(addr, "GET / HTTP/1.1\r\nHost: a.exa", "GET") })
	p.same(t, "slow", func(addr string) []exchanged {
		return ask1(addr, get("/1")+"GET /2 HTTP/1.1\r\nHost: a.exa", "GET", "GET")
	})
	sameLogs(t, p)
	p.sameStats(t, "http.slow.downstream_rq_")
}

// tunneled is what a client sees of a tunnel: the answer's head, then what comes
// back for what it sends. Envoy ends a tunnel with the first direction that
// ends; outrider lets the other one finish.
func tunneled(addr, raw, text string) []exchanged {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return []exchanged{{Err: err.Error()}}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, raw)
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		return []exchanged{{Err: endOf(err)}}
	}
	head, err := textproto.NewReader(in).ReadMIMEHeader()
	x := exchanged{Proto: strings.TrimSpace(line), Header: headerLines(http.Header(head))}
	if err != nil || !strings.Contains(line, "101") && !strings.Contains(line, " 200") {
		return []exchanged{x}
	}
	io.WriteString(c, text)
	back := make([]byte, len(text))
	if _, err := io.ReadFull(in, back); err != nil {
		x.Err = endOf(err)
	}
	x.Body = string(back)
	return []exchanged{x}
}

// switching is a server that takes every upgrade and CONNECT, and echoes.
func switching(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if req.Method == "CONNECT" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		} else {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+req.Header.Get("Upgrade")+"\r\nSec-WebSocket-Accept: x\r\n\r\n")
		}
		io.Copy(c, in)
		io.WriteString(c, "bye")
		c.(*net.TCPConn).CloseWrite()
	})
}

func TestUpgradesAndTunnelsAreTheSameAsEnvoys(t *testing.T) {
	up := switching(t)
	p := both(t, "static_resources:\n  listeners:"+hcm("in", "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}]", `
- name: all
  domains: ["*"]
  routes:
  - {match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: [{upgrade_type: CONNECT}]}}
  - {match: {prefix: /no}, route: {cluster: up, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}}
  - {match: {prefix: /}, route: {cluster: up}}
`)+"  clusters:"+httpCluster("up", up, ""))
	upgrade := func(path, kind string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: " + kind + "\r\nSec-WebSocket-Key: k\r\n\r\n"
	}
	for name, raw := range map[string]string{
		"websocket":            upgrade("/", "websocket"),
		"websocket upper case": upgrade("/", "WebSocket"),
		"not allowed there":    upgrade("/no", "websocket"),
		"another":              upgrade("/", "other"),
		"CONNECT":              "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			p.same(t, "in", func(addr string) []exchanged { return tunneled(addr, raw, "hello, tunnel") })
		})
	}
}

func TestForwardedClientCertificatesAreTheSameAsEnvoys(t *testing.T) {
	authority, err := ca.New("xfcc")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server, err1 := authority.Issue(ca.Leaf{ID: "spiffe://cluster.local/ns/a/sa/server"})
	client, err2 := authority.Issue(ca.Leaf{ID: "spiffe://cluster.local/ns/a/sa/client", DNS: []string{"one.example", "two.example"}, CN: "the, client"})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(server.ChainPEM))
	write(t, filepath.Join(dir, "key.pem"), string(server.KeyPEM))
	write(t, filepath.Join(dir, "root.pem"), string(authority.RootPEM()))
	modes := []string{"SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"}
	var listeners []string
	for _, m := range modes {
		text := hcm(strings.ToLower(m), "forward_client_cert_details: "+m+"\nset_current_client_cert_details: {subject: true, cert: true, chain: true, dns: true, uri: true}", toOrigin)
		listeners = append(listeners, strings.TrimRight(text, "\n")+fmt.Sprintf(`
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: %[1]s/cert.pem}, private_key: {filename: %[1]s/key.pem}}]
            validation_context: {trusted_ca: {filename: %[1]s/root.pem}}
`, dir))
	}
	p := both(t, withOrigin(t, listeners...))
	pair, err := tls.X509KeyPair(client.ChainPEM, client.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	block, _ := pem.Decode(authority.RootPEM())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	for _, m := range modes {
		for _, certified := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, certificate %t", m, certified), func(t *testing.T) {
				p.same(t, strings.ToLower(m), func(addr string) []exchanged {
					cfg := &tls.Config{RootCAs: roots, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
					if certified {
						cfg.Certificates = []tls.Certificate{pair}
					}
					c, err := tls.Dial("tcp", addr, cfg)
					if err != nil {
						return []exchanged{{Err: err.Error()}}
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(10 * time.Second))
					io.WriteString(c, get("/", "x-forwarded-client-cert: By=x;Hash=y"))
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						return []exchanged{{Err: endOf(err)}}
					}
					return []exchanged{seen(resp)}
				})
			})
		}
	}
}
