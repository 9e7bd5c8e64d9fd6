//go:build netns

package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/iptables/netnstest"
	"outrider/proxy/istio/istiod/istiodtest"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// The workloads of the recorded pushes. Their endpoints are addresses of
// loopback, for they were recorded on one machine: here they are those of cables
// between hosts.
const (
	ucAddress      = "127.0.0.2"
	userWebAddress = "127.0.0.4" // it calls, and nobody calls it
	otherAddress   = "127.0.0.5"
	vip            = "10.96.0.10" // of the service uc
	ucHost         = "uc.dev.svc.cluster.local"
)

// mesh is workloads that only an istiod configures.
type mesh struct {
	*world
	istiod      *istiodtest.Istiod
	replays     map[string]*xdstest.Replay // by workload
	uc, web     *sidecar
	other       *sidecar // as user-web, with the service account "bad"
	istiodHost  *host
	application chan http.Header // of each request to uc
}

// newMesh makes a mesh with the pushes that were recorded under a policy.
func newMesh(t *testing.T, policy string, o istiodtest.Options) *mesh {
	t.Helper()
	needPrograms(t)
	w := &world{t: t, setup: setup{"nftables", "REDIRECT"}, outrider: binary(t, "OUTRIDER"), router: netnstest.New(t, "router")}
	w.router.Forward(t)
	m := &mesh{world: w, replays: map[string]*xdstest.Replay{}, application: make(chan http.Header, 1), istiodHost: w.host("istiod", 4)}
	for _, name := range []string{"uc", "user-web"} {
		m.replays[name] = xdstest.NewReplay(t, fmt.Sprintf("../../config/decode/testdata/istiod/%s-%s-delta", policy, name), true)
		m.replays[name].Add(t, "../../dns/testdata/nds.pb")
	}
	o.Serves = func(node string) *xdstest.Script {
		if strings.Contains(node, "~uc-1.dev~") {
			return m.replays["uc"].Script()
		}
		return m.replays["user-web"].Script()
	}
	o.Address, o.Listen = "10.4.0.1:15012", func(address string) (l net.Listener, err error) {
		err = m.istiodHost.Do(func() error {
			l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
			return err
		})
		return l, err
	}
	m.istiod = istiodtest.New(t, o)
	uc, web, other := w.host("uc", 1), w.host("user-web", 2), w.host("other", 3)
	m.join(uc, ucAddress, web, userWebAddress, "web")
	m.join(uc, ucAddress, other, otherAddress, "other")
	m.applications(uc)
	m.uc, m.web, m.other = m.start(uc, "uc-1", "default"), m.start(web, "user-web-1", "default"), m.start(other, "user-web-2", "bad")
	for _, s := range []*sidecar{m.uc, m.web, m.other} {
		s.ready()
	}
	return m
}

// join lays a cable between two hosts whose addresses are of loopback.
func (m *mesh) join(a *host, aAddress string, b *host, bAddress, name string) {
	m.t.Helper()
	for _, h := range []*host{a, b} {
		m.loopback(h)
	}
	port := func(h *host, address, name string) netnstest.Port {
		return netnstest.Port{Host: h.Host, Name: name, Addrs: []netip.Prefix{netip.MustParsePrefix(address + "/32")}}
	}
	netnstest.Cable(m.t, port(a, aAddress, name), port(b, bAddress, "uc"))
	a.Run(m.t, "ip", "route", "add", bAddress+"/32", "dev", name, "src", aAddress)
	b.Run(m.t, "ip", "route", "add", aAddress+"/32", "dev", "uc", "src", bAddress)
}

// loopback leaves a host only those addresses of loopback that the sidecar uses
// itself.
func (m *mesh) loopback(h *host) {
	m.t.Helper()
	err := h.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0)
	})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1/32", "127.0.0.6/32"} {
		h.Run(m.t, "ip", "addr", "replace", address, "dev", "lo")
	}
	if strings.Contains(h.Run(m.t, "ip", "addr", "show", "dev", "lo"), "127.0.0.1/8") {
		h.Run(m.t, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	}
}

// applications are uc's: HTTP of either version on two ports, lines on a third.
func (m *mesh) applications(uc *host) {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.application <- r.Header.Clone()
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Method, r.URL.Path)
	})}
	m.t.Cleanup(func() { server.Close() })
	for _, port := range []int{8080, 50051} {
		l := uc.Listen(m.t, appUser, at("0.0.0.0", port), false)
		go server.Serve(l) //nolint:errcheck // ends with Close
	}
	serve(m.t, uc.Listen(m.t, appUser, at("0.0.0.0", 9000), false), answer)
}

// start starts a sidecar behind the redirection.
func (m *mesh) start(h *host, pod, account string) *sidecar {
	m.t.Helper()
	id, err := spiffeid.FromString("spiffe://cluster.local/ns/dev/sa/" + account)
	if err != nil {
		m.t.Fatal(err)
	}
	m.istiod.Root(m.t, h.dir)
	m.istiod.Token(m.t, h.dir, id)
	m.rules(h, "--redirect-dns", "--capture-all-dns")
	return m.launch(h, pod, account)
}

// launch starts the sidecar's process.
func (m *mesh) launch(h *host, pod, account string) *sidecar {
	m.t.Helper()
	args := []string{
		"/usr/bin/env", "POD_NAME=" + pod, "POD_NAMESPACE=dev", "SERVICE_ACCOUNT=" + account, "ISTIO_META_WORKLOAD_NAME=" + h.Name,
		m.outrider, "sidecar", "--istiod", "10.4.0.1:15012", "--istiod-server-name", istiodtest.Name, "--ca-root-cert", "root-cert.pem",
		"--token-path", "istio-token", "--dns-capture", "--file-flush-interval-msec", "20", "-l", "debug",
	}
	if h.Name == "user-web" { // it keeps on disk what it has; the others have it in memory alone
		args = append(args, "--xds-cache", "cache", "--output-certs", "certs")
	}
	p := h.start(m.t, proxyUser, args...)
	return &sidecar{program: p, w: m.world, host: h}
}

// resolve is what an application of h hears of a name. The server that it asks
// does not exist.
func (m *mesh) resolve(h *host, name string) []string {
	m.t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return h.Connect(netnstest.Dial{User: appUser, UDP: true}, "10.96.0.53:53")
	}}
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	out, err := r.LookupHost(ctx, name)
	if err != nil {
		m.t.Errorf("%s: %s: %v", h.Name, name, err)
	}
	return out
}

// call makes a request from a sidecar's host, as its application.
func (m *mesh) call(from *sidecar, method string, port int, path string, header http.Header) (code int, body string, seen http.Header) {
	m.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return from.host.Connect(netnstest.Dial{User: appUser}, at(vip, port))
		},
	}}
	r, err := http.NewRequest(method, fmt.Sprintf("http://%s:%d%s", ucHost, port, path), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := client.Do(r)
	if err != nil {
		m.t.Fatalf("%s: %s %s: %v", from.name, method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	select {
	case seen = <-m.application:
	default:
	}
	return resp.StatusCode, string(text), seen
}

// accepted wants that no push was refused.
func (m *mesh) accepted() {
	m.t.Helper()
	for name, r := range m.replays {
		for _, text := range r.Nacks() {
			m.t.Errorf("%s refused: %s", name, text)
		}
		for _, url := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
			if r.Acked(url) == 0 {
				m.t.Errorf("%s has taken nothing of %s", name, url)
			}
		}
	}
}

// identities are who the application heard of: whom the caller called, and who
// it was (XFCC).
func identities(h http.Header) string {
	var out []string
	for part := range strings.SplitSeq(h.Get("X-Forwarded-Client-Cert"), ";") {
		if strings.HasPrefix(part, "By=") || strings.HasPrefix(part, "URI=") {
			out = append(out, part)
		}
	}
	return strings.Join(out, ";")
}

const (
	fromDefault = "By=spiffe://cluster.local/ns/dev/sa/default;URI=spiffe://cluster.local/ns/dev/sa/default"
	fromBad     = "By=spiffe://cluster.local/ns/dev/sa/default;URI=spiffe://cluster.local/ns/dev/sa/bad"
)

func TestRecordedPushesMakeAMesh(t *testing.T) {
	m := newMesh(t, "permissive", istiodtest.Options{})
	m.accepted()
	for _, c := range []struct {
		from *sidecar
		port int
		want string
	}{{m.web, 8080, fromDefault}, {m.other, 8080, fromBad}, {m.web, 50051, fromDefault}, {m.other, 50051, fromBad}} {
		code, body, seen := m.call(c.from, "GET", c.port, "/hello", nil)
		if code != 200 || !strings.HasSuffix(body, " GET /hello") {
			t.Errorf("%s, port %d: %d %q", c.from.name, c.port, code, body)
		}
		if got := identities(seen); got != c.want {
			t.Errorf("%s, port %d: the application is told %q, want %q", c.from.name, c.port, got, c.want)
		}
	}
	m.lines(m.web)
	m.plaintext(true)
	m.wire()
	m.names()
	m.counted(m.uc, "istio_requests_total", `reporter="destination"`, `source_workload="user-web"`, `destination_workload="uc"`,
		`source_principal="spiffe://cluster.local/ns/dev/sa/default"`, `connection_security_policy="mutual_tls"`, `response_code="200"`)
	m.counted(m.web, "istio_requests_total", `reporter="source"`, `source_workload="user-web"`, `destination_workload="uc"`, `destination_service="uc.dev.svc.cluster.local"`, `response_code="200"`)
	m.counted(m.uc, "istio_tcp_connections_opened_total", `source_workload="user-web"`, `destination_workload="uc"`)
}

// counted waits for a metric with all the labels on a sidecar's page.
func (m *mesh) counted(s *sidecar, words ...string) {
	m.t.Helper()
	s.until(fmt.Sprintf("metric with %q", words), func() bool {
		code, text, err := s.get("127.0.0.1:15090/stats/prometheus")
		return err == nil && code == http.StatusOK && hasLine(text, words)
	})
}

// names wants istiod's names from the sidecar.
func (m *mesh) names() {
	m.t.Helper()
	if got := m.resolve(m.web.host, ucHost+"."); !slices.Equal(got, []string{vip}) {
		m.t.Errorf("%s is %q, not %s", ucHost, got, vip)
	}
}

// lines has a conversation over TCP.
func (m *mesh) lines(from *sidecar) {
	m.t.Helper()
	c, err := from.host.dial(appUser, at(vip, 9000))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	if line, err := c.ask("hello"); err != nil || line != "127.0.0.6: hello" {
		m.t.Errorf("%s: %q, %v", from.name, line, err)
	}
}

// plaintext calls uc past a sidecar, as who has none: user 1337 is not
// redirected.
func (m *mesh) plaintext(served bool) {
	m.t.Helper()
	c, err := m.web.host.dial(proxyUser, at(ucAddress, 9000))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	if line, err := c.ask("plain"); (err == nil) != served {
		m.t.Errorf("plaintext: %q, %v", line, err)
	}
}

// wire wants what a request says nowhere on the cable.
func (m *mesh) wire() {
	m.t.Helper()
	frames := m.web.host.Capture(m.t, "uc")
	m.call(m.web, "GET", 8080, "/nobody-reads-this-on-the-way", nil)
	m.uc.until("the caller's frames", func() bool { return len(frames.Frames()) > 4 })
	for _, f := range frames.Frames() {
		if strings.Contains(string(f), "nobody-reads-this") {
			m.t.Error("the request is readable on the cable")
		}
	}
}

func TestRecordedPoliciesAreEnforced(t *testing.T) {
	m := newMesh(t, "authz", istiodtest.Options{})
	m.accepted()
	token := http.Header{"X-Token": {"abc-1"}}
	for _, c := range []struct {
		name   string
		from   *sidecar
		method string
		port   int
		path   string
		header http.Header
		code   int
	}{
		{"allowed by path, header and address", m.web, "GET", 8080, "/api/7/x/y/z", token, 200},
		{"without the header", m.web, "GET", 8080, "/api/7/x/y/z", nil, 403},
		{"another path", m.web, "GET", 8080, "/other", token, 403},
		{"another service account", m.other, "GET", 8080, "/api/7/x/y/z", token, 403},
		{"a denied path", m.web, "GET", 8080, "/admin/api/7/x/y", token, 403},
		{"a method of gRPC", m.web, "POST", 50051, "/uc.Users/Get", nil, 200},
		{"the same with GET", m.web, "GET", 50051, "/uc.Users/Get", nil, 403},
		{"the same of another service account", m.other, "POST", 50051, "/uc.Users/Get", nil, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body, seen := m.call(c.from, c.method, c.port, c.path, c.header)
			if code != c.code || (code == 403) != (body == "RBAC: access denied") || (seen != nil) != (code == 200) {
				t.Errorf("%d %q, the application has seen %v", code, body, seen)
			}
			if got := identities(seen); seen != nil && got != fromDefault {
				t.Errorf("the application is told %q", got)
			}
		})
	}
	// The policies for requests deny every connection where there are none.
	c, err := m.web.host.dial(appUser, at(vip, 9000))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := c.ask("hello"); err == nil {
		t.Errorf("port 9000 answers %q", line)
	}
	m.plaintext(false) // STRICT
}

func TestTrafficGoesOnWithoutIstiodAndCertificatesAreRenewedAfterIt(t *testing.T) {
	m := newMesh(t, "permissive", istiodtest.Options{TTL: 30 * time.Second})
	m.istiod.Stop()
	for _, s := range []*sidecar{m.uc, m.web} {
		if err := os.Remove(filepath.Join(s.host.dir, "istio-token")); err != nil { // a certificate has to do from now on
			t.Fatal(err)
		}
		s.until("a word of the loss", func() bool { return s.says("no xDS stream, what was before goes on") })
	}
	before := len(m.istiod.Streams())
	if code, body, seen := m.call(m.web, "GET", 8080, "/without", nil); code != 200 || identities(seen) != fromDefault {
		t.Errorf("%d %q %v", code, body, seen)
	}
	m.web.ready()
	m.names()
	m.web.until("the configuration on disk", func() bool {
		files, err := filepath.Glob(filepath.Join(m.web.host.dir, "cache", "*"))
		return err == nil && len(files) >= 5 // clusters, endpoints, listeners, routes, names
	})
	m.web.end(syscall.SIGKILL)
	m.web = m.launch(m.web.host, "user-web-1", "default") // with what is on disk
	m.web.ready()
	if code, body, seen := m.call(m.web, "GET", 8080, "/cold", nil); code != 200 || identities(seen) != fromDefault {
		t.Errorf("after a start without istiod: %d %q %v", code, body, seen)
	}
	m.names()
	m.istiod.Start(t)
	m.web.until("streams that certificates have opened", func() bool {
		all := m.istiod.Streams()[before:]
		return len(all) >= 2 && !slices.ContainsFunc(all, func(s istiodtest.Stream) bool {
			return s.Node != "" && !strings.Contains(s.Node, "user-web-2") && !strings.HasPrefix(s.How, "certificate")
		})
	})
	for _, s := range []*sidecar{m.uc, m.web} {
		renewed := func() int { return strings.Count(s.said.String(), "certificate is renewed") }
		first := renewed()
		s.until("another certificate", func() bool { return renewed() > first })
	}
	if code, body, _ := m.call(m.web, "GET", 8080, "/again", nil); code != 200 {
		t.Errorf("%d %q", code, body)
	}
}
