package hop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/certs/ca"
)

// soakTime is how long TestSoak takes: SOAK, or a short time that shows that it
// works.
func soakTime(t *testing.T) time.Duration {
	text := os.Getenv("SOAK")
	if text == "" {
		return 4 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	return d
}

// Full load over HTTP/2 and HTTP/1.1 while the endpoints come and go and every
// certificate is renewed: no request is lost, and the memory that the proxies
// hold does not grow.
func TestSoakLosesNoRequestAndHoldsItsMemory(t *testing.T) {
	total := soakTime(t)
	for _, bin := range binaries(t) {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s HTTP2 %t", bin[0], http2), func(t *testing.T) {
				w := newSoak(t, http2)
				c := w.start(bin[0], bin[1])
				l := dial(t, c.addr, http2, 8)
				defer l.close()
				streams := 1
				if http2 {
					streams = 16
				}
				l.run(warmUp, streams)
				stop := w.churn()
				rounds, memory := 0, int64(0)
				for begin := time.Now(); time.Since(begin) < total/2; rounds++ {
					l.run(5000, streams)
					if memory == 0 || time.Since(begin) < total/10 {
						memory = c.memory(t)
					}
				}
				stop()
				after := c.memory(t)
				t.Logf("%d requests, %d changes; memory %d KB after a tenth, %d KB at the end", rounds*5000, w.changes, memory, after)
				if w.changes == 0 {
					t.Error("nothing has changed meanwhile")
				}
				if limit := memory + memory/2 + 20_000; after > limit {
					t.Errorf("memory grew from %d to %d KB", memory, after)
				}
			})
		}
	}
}

// soak is what changes under the load: endpoints and certificates, in files.
type soak struct {
	t         *testing.T
	dir       string
	authority *ca.CA
	backends  []string
	http2     bool
	changes   int
}

func newSoak(t *testing.T, http2 bool) *soak {
	authority, err := ca.New("soak")
	if err != nil {
		t.Fatal(err)
	}
	w := &soak{t: t, dir: t.TempDir(), authority: authority, http2: http2}
	for range 3 {
		w.backends = append(w.backends, backend(t, http2, 1024))
	}
	w.write(0)
	return w
}

// replace writes a file whole.
func (w *soak) replace(name, text string) {
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		w.t.Error(err)
		return
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		w.t.Error(err)
	}
}

// write makes the n-th state: two of the three endpoints, new certificates.
func (w *soak) write(n int) {
	var eps []string
	for i, b := range w.backends {
		if i == n%len(w.backends) {
			continue
		}
		host, port, _ := net.SplitHostPort(b)
		eps = append(eps, fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}", host, port))
	}
	w.replace("eds.yaml", fmt.Sprintf(`
version_info: "%d"
resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: next
  endpoints: [{lb_endpoints: [%s]}]
`, n, strings.Join(eps, ", ")))
	for _, name := range []string{"client", "server"} {
		issued, err := w.authority.Issue(ca.Leaf{ID: "spiffe://cluster.local/ns/soak/sa/" + name})
		if err != nil {
			w.t.Error(err)
			return
		}
		w.replace(name+"-sds.yaml", fmt.Sprintf(`
version_info: "%d"
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: own
  tls_certificate:
    certificate_chain: {inline_string: %q}
    private_key: {inline_string: %q}
`, n, issued.ChainPEM, issued.KeyPEM))
	}
}

// churn changes everything four times a second until stop.
func (w *soak) churn() (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				w.changes++
				w.write(w.changes)
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

func (w *soak) start(kind, binary string) *chain {
	put(w.t, filepath.Join(w.dir, "root.pem"), w.authority.RootPEM())
	c := &chain{addr: free(w.t)}
	middle := free(w.t)
	more := ""
	if w.http2 {
		more = http2Cluster
	}
	node := "node: {id: soak, cluster: soak}\nstatic_resources:\n  listeners:"
	context := func(name, kind string) string {
		own := fmt.Sprintf("tls_certificates: [{certificate_chain: {filename: %[1]s/%[2]s.pem}, private_key: {filename: %[1]s/%[2]s.key}}]", w.dir, name)
		sds := fmt.Sprintf("tls_certificate_sds_secret_configs: [{name: own, sds_config: {path_config_source: {path: %s/%s-sds.yaml}}}]", w.dir, name)
		return strings.Replace(tlsContext(w.dir, name, kind), own, sds, 1)
	}
	eds := strings.Replace(cluster("127.0.0.1:1", more), "type: STATIC", fmt.Sprintf("type: EDS\n    eds_cluster_config: {eds_config: {path_config_source: {path: %s/eds.yaml}}}", w.dir), 1)
	lines := strings.Split(eds, "\n")
	for i := range lines {
		if strings.Contains(lines[i], "load_assignment") {
			lines[i] = ""
		}
	}
	c.run(w.t, kind, binary, w.dir, "server", node+listener(middle)+context("server", "DownstreamTlsContext")+"  clusters:"+strings.Join(lines, "\n"))
	wait(w.t, middle)
	up := strings.ReplaceAll(context("client", "UpstreamTlsContext"), "\n  ", "\n")
	c.run(w.t, kind, binary, w.dir, "client", node+listener(c.addr)+"  clusters:"+cluster(middle, http2Cluster+up))
	wait(w.t, c.addr)
	return c
}

// memory is what both proxies have resident, in KB.
func (c *chain) memory(t testing.TB) int64 {
	var sum int64
	for _, pid := range c.pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += kb
			}
		}
	}
	return sum
}
