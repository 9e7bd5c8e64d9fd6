package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/csr"
)

// command runs the program, and returns what it printed and its exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), code
}

// mustRun is command for one that must work.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := command(t, args...)
	if code != exitOK {
		t.Fatalf("outrider %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// caLog is what a running authority has logged; it is written and read at once.
type caLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *caLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *caLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startCA runs `outrider ca serve`, and returns its address.
func startCA(t *testing.T, state string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, ended := &caLog{}, make(chan int, 1)
	args := append([]string{"ca", "serve", "--state", state, "--listen", "127.0.0.1:0"}, flags...)
	go func() { ended <- run(ctx, args, log, log) }()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != exitOK {
			t.Errorf("outrider ca serve: exit code %d:\n%s", code, log)
		}
	})
	at := regexp.MustCompile(`msg="authority serves" address=(\S+)`)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if m := at.FindStringSubmatch(log.String()); m != nil {
			tick.Stop()
			return m[1]
		}
		select {
		case code := <-ended:
			ended <- code
			t.Fatalf("outrider ca serve ended with %d:\n%s", code, log)
		default:
		}
	}
}

func issueFrom(t *testing.T, o csr.Options) error {
	t.Helper()
	client, err := csr.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	issued, err := client.Issue(t.Context())
	if err == nil && issued.KeyPair.ID != o.ID {
		t.Errorf("got a certificate for %s, want %s", issued.KeyPair.ID, o.ID)
	}
	return err
}

// A newcomer's way: start, make a token, ask with it; then a machine's files.
func TestCAIssuesToOurOwnClient(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	address := startCA(t, state, "--max-ttl", "1h")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustRun(t, "ca", "token", "--state", state, "--namespace", "dev", "--service-account", "web", "--out", at("token"))
	if err := os.WriteFile(at("root.pem"), []byte(mustRun(t, "ca", "root", "--state", state)), 0o600); err != nil {
		t.Fatal(err)
	}
	web := spiffeid.RequireFromString("spiffe://cluster.local/ns/dev/sa/web")
	if err := issueFrom(t, csr.Options{Address: address, Trust: csr.Trust{RootFile: at("root.pem")}, TokenPath: at("token"), ID: web}); err != nil {
		t.Errorf("with a token and a root file: %v", err)
	}
	pin, err := hex.DecodeString(strings.TrimSpace(mustRun(t, "ca", "root", "--state", state, "--pin")))
	if err != nil {
		t.Fatal(err)
	}
	pinned := csr.Trust{Pins: [][sha256.Size]byte{[sha256.Size]byte(pin)}}
	if err := issueFrom(t, csr.Options{Address: address, Trust: pinned, TokenPath: at("token"), ID: web}); err != nil {
		t.Errorf("with a token and a pin: %v", err)
	}
	out := mustRun(t, "ca", "issue", "--state", state, "--id", "spiffe://cluster.local/vm/db", "--ttl", "720h", "--out", at("vm"))
	if !strings.HasPrefix(out, "spiffe://cluster.local/vm/db: serial ") {
		t.Errorf("issue printed %q", out)
	}
	pair, err := tls.LoadX509KeyPair(at("vm/cert-chain.pem"), at("vm/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	machine := csr.Options{
		Address: address, Trust: csr.Trust{RootFile: at("vm/root-cert.pem")}, ID: spiffeid.RequireFromString("spiffe://cluster.local/vm/db"),
		Certificate: func() (*tls.Certificate, error) { return &pair, nil },
	}
	if err := issueFrom(t, machine); err != nil {
		t.Errorf("with a machine's files: %v", err)
	}
	machine.ID = web
	if err := issueFrom(t, machine); err == nil || !strings.Contains(err.Error(), "the request names "+web.String()) {
		t.Errorf("with another's name: %v", err)
	}
}

// After a whole rotation, who has only the first root's file or pin still
// reaches the authority; and status shows the way.
func TestCARotatesItsRootUnderAServer(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	address := startCA(t, state, "--max-ttl", "2s")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	first := mustRun(t, "ca", "root", "--state", state)
	if err := os.WriteFile(at("root.pem"), []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "ca", "token", "--state", state, "--id", "spiffe://cluster.local/vm/db", "--out", at("token"))
	id := spiffeid.RequireFromString("spiffe://cluster.local/vm/db")
	client := csr.Options{Address: address, Trust: csr.Trust{RootFile: at("root.pem")}, TokenPath: at("token"), ID: id}
	if err := issueFrom(t, client); err != nil {
		t.Fatal(err)
	}
	if got := mustRun(t, "ca", "status", "--state", state); !strings.Contains(got, "phase:         steady") {
		t.Errorf("before:\n%s", got)
	}
	if got := mustRun(t, "ca", "rotate-root", "--state", state, "--overlap", "0s"); !strings.Contains(got, "phase:         introducing") ||
		!strings.Contains(got, "waits to sign") || strings.Count(got, "pin ") != 2 {
		t.Errorf("rotate-root:\n%s", got)
	}
	if _, errs, code := command(t, "ca", "rotate-root", "--state", state); code != exitFailed || !strings.Contains(errs, "is under way") {
		t.Errorf("a second rotation: %d, %s", code, errs)
	}
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		if err := issueFrom(t, client); err != nil {
			t.Fatalf("in the rotation: %v", err)
		}
		if now := mustRun(t, "ca", "root", "--state", state); strings.Count(now, "BEGIN") == 1 && now != first {
			tick.Stop()
			break
		}
	}
	if err := issueFrom(t, client); err != nil {
		t.Errorf("with the first root's file after the rotation: %v", err)
	}
}

func TestCARefuses(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	address := startCA(t, state)
	for name, c := range map[string]struct {
		args string
		code int
		want string
	}{
		"no state":               {"ca serve", exitUsage, "--state is needed"},
		"no authority":           {"ca status --state " + t.TempDir(), exitFailed, "there is no authority in it"},
		"a second server":        {"ca --state " + state + " --listen 127.0.0.1:0", exitFailed, "is served by another process"},
		"an address in use":      {"ca --state " + filepath.Join(t.TempDir(), "s") + " --listen " + address, exitFailed, "--listen"},
		"another trust domain":   {"ca --state " + state + " --trust-domain other.org", exitFailed, `the state is of "cluster.local"`},
		"no trust domain at all": {"ca --state " + state + " --trust-domain UPPER/x", exitUsage, "--trust-domain"},
		"issuer without keys":    {"ca --state " + state + " --jwt-issuer a", exitUsage, "each issuer needs its key set"},
		"keys that are not":      {"ca --state " + state + " --jwt-issuer a --jwks /nonexistent", exitFailed, "--jwks of --jwt-issuer a"},
		"a key set in the clear": {"ca --state " + state + " --jwt-issuer a --jwks http://a/b", exitFailed, "it must be https"},
		"half an authority":      {"ca --state " + state + " --ca-cert x", exitFailed, "three files"},
		"an argument":            {"ca status now --state " + state, exitUsage, `unexpected argument "now"`},
		"a token for nobody":     {"ca token --state " + state, exitUsage, "either --id, or --namespace"},
		"a token for two":        {"ca token --id spiffe://cluster.local/a --namespace b --state " + state, exitUsage, "not both"},
		"a token for a stranger": {"ca token --id spiffe://other.org/a --state " + state, exitFailed, "is not in the trust domain"},
		"a name with a slash":    {"ca token --namespace a/b --service-account c --state " + state, exitUsage, `--namespace "a/b"`},
		"nowhere to write":       {"ca issue --id spiffe://cluster.local/a --state " + state, exitUsage, "--out is needed"},
		"a life that is none":    {"ca --max-ttl 0s --state " + state, exitUsage, "--max-ttl 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs, code := command(t, strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(errs, c.want) {
				t.Errorf("got exit code %d, %q, want %d, %q", code, errs, c.code, c.want)
			}
		})
	}
}

func TestCANamesItself(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:1": "localhost 127.0.0.1 ::1", ":1": "localhost 127.0.0.1 ::1", "[::]:1": "localhost 127.0.0.1 ::1",
		"10.0.0.1:1": "localhost 127.0.0.1 ::1 10.0.0.1", "ca.example:1": "localhost 127.0.0.1 ::1 ca.example",
	} {
		f := caServeFlags{listen: listen}
		if got := strings.Join(f.names(), " "); got != want {
			t.Errorf("%s: got %s, want %s", listen, got, want)
		}
	}
	f := caServeFlags{listen: "10.0.0.1:1", sans: []string{"istiod.istio-system.svc"}}
	if got := f.names(); len(got) != 1 || net.ParseIP(got[0]) != nil {
		t.Errorf("got %v, want what --san says", got)
	}
}
