package hop

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outrider/certs/ca"
)

// binaries are the proxies to measure, by name. outrider is built from here.
func binaries(b testing.TB) [][2]string {
	own := os.Getenv("OUTRIDER")
	if own == "" {
		own = filepath.Join(b.TempDir(), "outrider")
		if out, err := exec.Command("go", "build", "-o", own, "outrider/cmd/outrider").CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	list := [][2]string{{"outrider", own}}
	if envoy := os.Getenv("ENVOY"); envoy != "" {
		return append(list, [2]string{"envoy", envoy})
	}
	b.Log("ENVOY is not set: there is no peer in this run")
	return list
}

// chain is two proxies, one after the other, on one CPU.
type chain struct {
	addr string
	pids []int
}

// start starts both proxies and waits until they answer.
func start(b testing.TB, kind, binary, backend string, http2 bool) *chain {
	dir := b.TempDir()
	authority, err := ca.New("bench")
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"client", "server"} {
		issued, err := authority.Issue(ca.Leaf{ID: "spiffe://cluster.local/ns/bench/sa/" + name, NotAfter: time.Now().Add(24 * time.Hour)})
		if err != nil {
			b.Fatal(err)
		}
		put(b, filepath.Join(dir, name+".pem"), issued.ChainPEM)
		put(b, filepath.Join(dir, name+".key"), issued.KeyPEM)
	}
	put(b, filepath.Join(dir, "root.pem"), authority.RootPEM())
	c := &chain{addr: free(b)}
	middle := free(b)
	c.run(b, kind, binary, dir, "server", server(dir, middle, backend, http2))
	wait(b, middle)
	c.run(b, kind, binary, dir, "client", client(dir, c.addr, middle))
	wait(b, c.addr)
	return c
}

func put(b testing.TB, path string, data []byte) {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
}

func free(b testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func wait(b testing.TB, addr string) {
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("nobody listens at %s", addr)
}

// run starts one proxy on the first CPU that this process may use.
func (c *chain) run(b testing.TB, kind, binary, dir, name, config string) {
	path := filepath.Join(dir, name+".yaml")
	put(b, path, []byte(config))
	args := []string{"-c", path, "--concurrency", "1", "-l", "warning"}
	if kind == "envoy" {
		args = append(args, "--disable-hot-restart", "--use-dynamic-base-id")
		args = []string{"-c", path, "--concurrency", "1", "-l", "warning", "--disable-hot-restart"}
	} else {
		args = append([]string{"run"}, args...)
	}
	cmd := exec.Command(binary, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := pinned(cmd.Start); err != nil {
		b.Fatal(err)
	}
	c.pids = append(c.pids, cmd.Process.Pid)
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("%s, %s:\n%s", kind, name, log.String())
		}
	})
}

// pinned runs start with this thread on one CPU, which its child inherits.
func pinned(start func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with its goroutine
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			done <- err
			return
		}
		for i := range 1024 {
			if all.IsSet(i) {
				one.Set(i)
				break
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			done <- err
			return
		}
		done <- start()
		select {} // Pdeathsig is of the thread
	}()
	return <-done
}

// cpu is the CPU time that both proxies have used.
func (c *chain) cpu(b testing.TB) time.Duration {
	var sum time.Duration
	for _, pid := range c.pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime in ticks of 10 ms
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

const manager = `
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          generate_request_id: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: next}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

const http2Cluster = `
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`

func listener(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("\n  - name: in\n    address: {socket_address: {address: %s, port_value: %s}}\n    filter_chains:\n    - filters:%s", host, port, manager)
}

func cluster(addr, more string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
  - name: next
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_requests: 100000, max_pending_requests: 100000}]}
    load_assignment: {cluster_name: next, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
%s`, host, port, more)
}

func tlsContext(dir, name, kind string) string {
	return fmt.Sprintf(`
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%s
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            alpn_protocols: [h2]
            tls_certificates: [{certificate_chain: {filename: %[2]s/%[3]s.pem}, private_key: {filename: %[2]s/%[3]s.key}}]
            validation_context: {trusted_ca: {filename: %[2]s/root.pem}}
`, kind, dir, name)
}

func server(dir, addr, backend string, http2 bool) string {
	more := ""
	if http2 {
		more = http2Cluster
	}
	return "static_resources:\n  listeners:" + listener(addr) +
		strings.Replace(tlsContext(dir, "server", "DownstreamTlsContext"), "            validation", "            validation", 1) +
		"  clusters:" + cluster(backend, more)
}

func client(dir, addr, next string) string {
	tls := strings.ReplaceAll(tlsContext(dir, "client", "UpstreamTlsContext"), "\n  ", "\n")
	return "static_resources:\n  listeners:" + listener(addr) + "  clusters:" + cluster(next, http2Cluster+tls)
}
