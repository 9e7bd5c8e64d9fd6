//go:build envoy

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is in examples/ is Envoy's configuration, not a dialect of it.
func TestExamplesAreAcceptedByBoth(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		for _, k := range kinds {
			t.Run(filepath.Base(file)+" on "+strings.ToLower(string(k)), func(t *testing.T) {
				path, err := filepath.Abs(file)
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(binary(t, k), "--mode", "validate", "-c", path)
				cmd.Dir = t.TempDir()
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, tail(string(out), 20))
				}
			})
		}
	}
}

// The server's example runs on either proxy, and the client's on the other.
func TestExamplesTalkToEachOther(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		w := newWorld(t)
		sides := map[string]string{"server": shortDir(t), "client": shortDir(t)}
		for name, id := range map[string]string{"server": "spiffe://cluster.local/ns/dev/sa/default", "client": webID} {
			socket := filepath.Join(sides[name], "var/run/secrets/workload-spiffe-uds")
			if err := os.MkdirAll(socket, 0o755); err != nil {
				t.Fatal(err)
			}
			w.agentAt(filepath.Join(socket, "socket"), id)
		}
		app := serveAt(t, "127.0.2.2:50051", repeat)
		startExample(t, server, sides["server"], "../../examples/server.yaml")
		startExample(t, client, sides["client"], "../../examples/client.yaml")
		for _, addr := range []string{"127.0.1.1:50051", "127.0.1.1:50052", "127.0.1.1:50061"} {
			if got, err := ask(addr, "hello"); got != "hello" || err != nil {
				t.Errorf("through %s: %q %v", addr, got, err)
			}
		}
		if got, _ := ask("127.0.1.1:50053", "hello"); got != "" {
			t.Errorf("the wrong identity answers %q", got)
		}
		app.Close()
	})
}

// shortDir is a directory whose path leaves room for the socket's in the 108
// bytes that there are.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
