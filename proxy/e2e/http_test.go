//go:build envoy

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// The HTTP comparison: one bootstrap on both proxies, the same requests to
// both, and what the client and the server see must be the same.

// exchanged is what is compared of one request.
type exchanged struct {
	Status  int
	Proto   string
	Header  []string // sorted
	Body    string
	Trailer []string
	Err     string // of the client: how the connection ended
}

// volatile are fields whose values no two requests share.
var volatile = map[string]*regexp.Regexp{
	"date":                           regexp.MustCompile(`.+ GMT`),
	"x-request-id":                   regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`),
	"x-envoy-upstream-service-time":  regexp.MustCompile(`^\d+$`),
	"x-envoy-expected-rq-timeout-ms": regexp.MustCompile(`^\d+$`),
}

// headerLines are the fields of h, sorted, what is volatile replaced by a word
// if it has the right form.
func headerLines(h http.Header) []string {
	var out []string
	for name, values := range h {
		name = strings.ToLower(name)
		for _, v := range values {
			if re := volatile[name]; re != nil && re.MatchString(v) {
				v = "<" + name + ">"
			}
			out = append(out, name+": "+v)
		}
	}
	slices.Sort(out)
	return out
}

// origin is the server behind the proxies. It answers with what it was asked,
// or as the path tells it: /status/503, /trailers, /big/100000, /early, /slow,
// /reset, /head/50000, /header?name=value.
func origin(t *testing.T) string {
	t.Helper()
	return serveHTTP(t, http.HandlerFunc(answerOrigin))
}

func answerOrigin(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	for name, values := range r.URL.Query() {
		if h, ok := strings.CutPrefix(name, "set-"); ok {
			for _, v := range values {
				w.Header().Add(h, v)
			}
		}
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	number := func() int { n, _ := strconv.Atoi(parts[len(parts)-1]); return n }
	w.Header().Set("Content-Type", "text/plain")
	switch parts[0] {
	case "status":
		w.WriteHeader(number())
		if number() != 204 && number() != 304 {
			fmt.Fprintf(w, "status %d\n", number())
		}
	case "trailers":
		w.Header().Set("Trailer", "X-Checksum")
		io.WriteString(w, "body\n")
		w.Header().Set("X-Checksum", "abc")
	case "big":
		w.Write(bytes.Repeat([]byte("x"), number()))
	case "head":
		w.Header().Set("X-Large", strings.Repeat("x", number()))
	case "slow":
		time.Sleep(time.Duration(number()) * time.Millisecond)
		io.WriteString(w, "slow\n")
	case "reset":
		panic(http.ErrAbortHandler)
	default:
		r.Header.Del("X-Forwarded-Host")
		fmt.Fprintf(w, "%s %s %s\nhost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
		for _, l := range headerLines(r.Header) {
			fmt.Fprintln(w, l)
		}
		fmt.Fprintf(w, "\n%s\n", body)
		for _, l := range headerLines(r.Trailer) {
			fmt.Fprintln(w, l)
		}
	}
}

// ask1 sends raw bytes of HTTP/1 and reads the answers to them: as many as
// methods are named, or until the connection ends.
func ask1(addr, raw string, methods ...string) []exchanged {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return []exchanged{{Err: err.Error()}}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		return []exchanged{{Err: "write"}}
	}
	in := bufio.NewReader(c)
	var out []exchanged
	for i := 0; i < len(methods); i++ {
		resp, err := http.ReadResponse(in, &http.Request{Method: methods[i]})
		if err != nil {
			return append(out, exchanged{Err: endOf(err)})
		}
		x := seen(resp)
		out = append(out, x)
		if x.Status == 100 {
			i-- // the answer comes after it
			continue
		}
		if x.Err != "" || resp.Close {
			break
		}
	}
	return out
}

// endOf is how a connection ended, without its addresses.
func endOf(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "reset"):
		return "reset"
	case strings.Contains(text, "EOF"):
		return "EOF"
	case strings.Contains(text, "timeout"):
		return "timeout"
	default:
		return text
	}
}

func seen(resp *http.Response) exchanged {
	x := exchanged{Status: resp.StatusCode, Proto: resp.Proto}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		x.Err = endOf(err)
	}
	if resp.Close && resp.ProtoMajor == 1 && resp.Header.Get("Connection") == "" {
		resp.Header.Set("Connection", "close") // net/http takes it away
	}
	if len(resp.TransferEncoding) > 0 {
		resp.Header.Set("Transfer-Encoding", strings.Join(resp.TransferEncoding, ", "))
	}
	x.Header, x.Body, x.Trailer = headerLines(resp.Header), string(body), headerLines(resp.Trailer)
	return x
}

// ask2 makes one request over HTTP/2 by prior knowledge.
func ask2(addr string, req *http.Request) exchanged {
	tr := &http2.Transport{AllowHTTP: true, DisableCompression: true, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := tr.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return exchanged{Err: err.Error()}
	}
	defer resp.Body.Close()
	return seen(resp)
}

// pairOf is both proxies on one bootstrap.
type pairOf struct {
	t    *testing.T
	each map[kind]*running
	// answered is how many requests each of them has answered.
	answered int
}

func both(t *testing.T, bootstrap string) *pairOf {
	t.Helper()
	p := &pairOf{t: t, each: map[kind]*running{}}
	for _, k := range kinds {
		p.each[k] = start(t, k, t.TempDir(), bootstrap).ready()
	}
	return p
}

// same makes a request of both proxies and compares.
func (p *pairOf) same(t *testing.T, listener string, ask func(addr string) []exchanged) []exchanged {
	t.Helper()
	got := map[kind][]exchanged{}
	for _, k := range kinds {
		got[k] = ask(p.each[k].addr(listener))
		for i := range got[k] {
			got[k][i] = neutral(got[k][i], p.each[k].addr(listener))
		}
	}
	if d := cmp.Diff(got[envoy], got[outrider]); d != "" {
		t.Errorf("- envoy, + outrider:\n%s", d)
	}
	for _, x := range got[envoy] {
		if x.Status >= 200 {
			p.answered++
		}
	}
	return got[envoy]
}

// neutral takes out what differs between two processes: their ports.
func neutral(x exchanged, addr string) exchanged {
	_, port, _ := net.SplitHostPort(addr)
	swap := func(s string) string {
		return strings.NewReplacer(":"+port, ":PORT", "x-forwarded-port: "+port, "x-forwarded-port: PORT").Replace(s)
	}
	x.Body = swap(x.Body)
	for i := range x.Header {
		x.Header[i] = swap(x.Header[i])
	}
	return x
}

// sameStats compares counters under a prefix that are not 0 on either.
func (p *pairOf) sameStats(t *testing.T, prefix string, but ...string) {
	t.Helper()
	read := func(k kind) map[string]string {
		_, text := p.each[k].get("/stats?filter=^" + regexp.QuoteMeta(prefix))
		out := map[string]string{}
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			name, value, _ := strings.Cut(line, ": ")
			if strings.Contains(value, "P0(") || value == "No recorded values" || slices.ContainsFunc(but, func(s string) bool { return strings.Contains(name, s) }) {
				continue
			}
			out[name] = value
		}
		return out
	}
	var d string
	for range 50 { // the proxies count some things a little later
		if d = cmp.Diff(read(envoy), read(outrider)); d == "" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("stats under %s: - envoy, + outrider:\n%s", prefix, d)
}

// hcm is a connection manager on a port of its own.
func hcm(name, more, routes string) string {
	return fmt.Sprintf(`
  - name: %s
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %s
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          access_log: [{name: file, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: access.log,
            log_format: {text_format_source: {inline_string: "%s|%%REQ(:METHOD)%%|%%REQ(:PATH)%%|%%PROTOCOL%%|%%RESPONSE_CODE%%|%%RESPONSE_FLAGS%%|%%RESPONSE_CODE_DETAILS%%|%%BYTES_RECEIVED%%|%%BYTES_SENT%%|%%UPSTREAM_CLUSTER%%|%%ROUTE_NAME%%\n"}}}}]
%s
          route_config:
            name: %s
            validate_clusters: false
            virtual_hosts:
%s
`, name, name, name, indent(more, 10), name, indent(routes, 12))
}

func indent(text string, n int) string {
	pad := strings.Repeat(" ", n)
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i := range lines {
		if lines[i] != "" {
			lines[i] = pad + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// httpCluster is a static cluster.
func httpCluster(name, addr, more string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
  - name: %s
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
%s`, name, name, host, port, indent(more, 4))
}

const speaksHTTP2 = `
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
`

// accessLog is the proxy's access log, once it has so many lines.
func (r *running) accessLog(lines int) []string {
	var all []string
	r.wait(fmt.Sprintf("%d lines of access log", lines), func() bool {
		text, _ := os.ReadFile(r.dir + "/access.log")
		all = strings.Split(strings.TrimSpace(string(text)), "\n")
		return len(all) >= lines
	})
	return all
}

func get(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: a.example\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// serveHTTP serves HTTP/1 and, by prior knowledge, HTTP/2.
func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}
