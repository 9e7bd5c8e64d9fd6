//go:build envoy

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// sidecarFiles are short files of every kind of line, by name.
func sidecarFiles(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{
		"strict":          "mtls: STRICT\nports: [{port: 9001}, {port: 9002, mtls: PERMISSIVE}, {port: 9003, mtls: DISABLE}]\n",
		"disable":         "mtls: DISABLE\nports: [{port: 9001, mtls: STRICT}]\n",
		"authorization":   "ports: [{port: 9001}]\nauthorization:\n- {name: a, ports: [9001, 9009], principals: ['spiffe://cluster.local/ns/dev/*']}\n- {name: b, action: DENY, namespaces: [test], ipBlocks: [10.0.0.0/8, 'fd00::/8']}\n",
		"deny alone":      "authorization: [{name: b, action: DENY, ipBlocks: [192.0.2.0/24]}]\n",
		"registry":        "outbound: REGISTRY_ONLY\nservices: [{host: db.dev.svc, addresses: [192.0.2.1], ports: [5432], identities: ['spiffe://cluster.local/ns/dev/sa/db']}]\n",
		"any address":     "services: [{host: db.dev.svc, ports: [5432, 5433], endpoints: [{address: 192.0.2.9}, {address: 192.0.2.10, port: 1, mtls: false}]}]\n",
		"other domains":   "trustDomain: a.test\ntrustDomainAliases: [b.test, c.test]\nmtls: STRICT\nports: [{port: 1}]\n",
		"PROXY headers":   "ports: [{port: 9001, proxyProtocol: v1}, {port: 9002, proxyProtocol: v2, app: '127.0.0.1:9'}]\n",
		"IPv4, not first": "ipv6: false\nserverFirst: false\nports: [{port: 9001}]\naccessLog: access.log\n",
	}
	files, err := filepath.Glob("../sidecar/testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		} else if name := filepath.Base(f); !strings.HasSuffix(name, ".bootstrap.yaml") {
			out[name] = string(text)
		}
	}
	if len(out) < 11 {
		t.Fatalf("there are only %d files", len(out))
	}
	return out
}

// printed is what `outrider sidecar --print-config` makes of a short file.
func printed(t *testing.T, short string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sidecar.yaml")
	write(t, path, short)
	return output(t, "sidecar", "--config", path, "--print-config")
}

// tree is a part of a YAML document.
type tree = map[string]any

// moved is a printed bootstrap whose sockets are where a test may open them: on
// loopback, at ports that the kernel chooses. What is bound nowhere, or where
// others send connections, stays.
func moved(t *testing.T, bootstrap string) string {
	t.Helper()
	return edited(t, bootstrap, func(l tree) []tree {
		if bound, said := l["bind_to_port"]; said && bound == false {
			return []tree{l}
		}
		return []tree{at(l, l["name"].(string), "127.0.0.1:0")}
	})
}

// edited is a printed bootstrap with other listeners, and an admin interface
// and an SDS socket of the test's own.
func edited(t *testing.T, bootstrap string, listener func(tree) []tree) string {
	t.Helper()
	var all tree
	if err := yaml.Unmarshal([]byte(bootstrap), &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "admin") // start adds one
	static := all["static_resources"].(tree)
	var listeners []tree
	for _, l := range static["listeners"].([]any) {
		listeners = append(listeners, listener(l.(tree))...)
	}
	static["listeners"] = listeners
	text, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "./var/run/secrets/workload-spiffe-uds/socket", "./sds")
}

// at is a listener under another name, bound to another address.
func at(l tree, name, addr string) tree {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	out := maps.Clone(l)
	out["name"], out["address"] = name, tree{"socket_address": tree{"address": host, "port_value": n}}
	delete(out, "bind_to_port")
	return out
}

func TestBothProxiesAcceptWhatPrintConfigPrints(t *testing.T) {
	for name, short := range sidecarFiles(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "envoy.yaml")
			write(t, file, printed(t, short))
			output(t, "validate", "-c", file)
			cmd := exec.CommandContext(t.Context(), binary(t, envoy), "--mode", "validate", "-c", file, "-l", "warning")
			cmd.Dir = filepath.Dir(file)
			if text, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(text), "deprecated") {
				t.Errorf("Envoy: %v\n%s", err, text)
			}
		})
	}
}

// names are what both proxies must have made of a bootstrap.
func (r *running) names() (out []string) {
	r.t.Helper()
	type address struct {
		Socket struct {
			Address string `json:"address"`
			Port    int    `json:"port_value"`
		} `json:"socket_address"`
	}
	var listeners struct {
		All []struct {
			Name  string  `json:"name"`
			Local address `json:"local_address"`
		} `json:"listener_statuses"`
	}
	var clusters struct {
		All []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address address `json:"address"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	for path, into := range map[string]any{"/listeners?format=json": &listeners, "/clusters?format=json": &clusters} {
		code, body := r.get(path)
		if err := json.Unmarshal([]byte(body), into); err != nil || code != 200 {
			r.t.Fatalf("%s %s: %d %v\n%s", r.kind, path, code, err, body)
		}
	}
	for _, l := range listeners.All {
		line := "listener " + l.Name
		if !strings.HasPrefix(l.Name, "virtual") { // at a port that the kernel chose
			line += fmt.Sprintf(" %s %d", l.Local.Socket.Address, l.Local.Socket.Port)
		}
		out = append(out, line)
	}
	for _, c := range clusters.All {
		out = append(out, "cluster "+c.Name)
		for _, h := range c.Hosts {
			host := h.Address.Socket.Address
			if host == "::1" { // "localhost": the hosts file's for us, c-ares's own for Envoy
				host = "127.0.0.1"
			}
			out = append(out, fmt.Sprintf("cluster %s host %s %d", c.Name, host, h.Address.Socket.Port))
		}
	}
	slices.Sort(out)
	return out
}

// chains are the names of the filter chains of static listeners, by
// /config_dump, with what they match on.
func (r *running) chains() (out []string) {
	r.t.Helper()
	_, body := r.get("/config_dump?resource=static_listeners")
	var dump struct {
		Configs []struct {
			Listener struct {
				Name   string `json:"name"`
				Chains []struct {
					Name  string          `json:"name"`
					Match json.RawMessage `json:"filter_chain_match"`
				} `json:"filter_chains"`
			} `json:"listener"`
		} `json:"configs"`
	}
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		r.t.Fatalf("%s /config_dump: %v\n%s", r.kind, err, body)
	}
	for _, c := range dump.Configs {
		for _, chain := range c.Listener.Chains {
			var match any
			if len(chain.Match) > 0 {
				if err := json.Unmarshal(chain.Match, &match); err != nil {
					r.t.Fatal(err)
				}
			}
			text, err := json.Marshal(match) // sorted
			if err != nil {
				r.t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s: %s %s", c.Listener.Name, chain.Name, text))
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { // each listener's in their order
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	})
	return out
}

func TestBothProxiesRunWhatPrintConfigPrintsWithTheSameNames(t *testing.T) {
	for name, short := range sidecarFiles(t) {
		t.Run(name, func(t *testing.T) {
			bootstrap := strings.ReplaceAll(moved(t, printed(t, short)), "transparent: true", "transparent: false") // needs rights
			w := newWorld(t)
			var listed, chains [2][]string
			for i, k := range kinds {
				dir := t.TempDir()
				w.agent(dir, ucID)
				r := start(t, k, dir, bootstrap).ready()
				listed[i], chains[i] = r.names(), r.chains()
			}
			if !slices.Equal(listed[0], listed[1]) || len(listed[0]) < 6 {
				t.Errorf("Envoy lists\n%s\noutrider lists\n%s", strings.Join(listed[0], "\n"), strings.Join(listed[1], "\n"))
			}
			if !slices.Equal(chains[0], chains[1]) || len(chains[0]) < 4 {
				t.Errorf("Envoy has the chains\n%s\noutrider has\n%s", strings.Join(chains[0], "\n"), strings.Join(chains[1], "\n"))
			}
		})
	}
}
