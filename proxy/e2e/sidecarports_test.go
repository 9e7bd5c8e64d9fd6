//go:build envoy

package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"outrider/certs/ca"
)

// The ports of the workload under test, by what is special about each. The
// virtual inbound listener is bound once to each of them, so that the
// destination is the port's without a redirection.
var portNames = []string{"strict", "permissive", "disabled", "header", "default", "service"}

const shortFile = `
workload: uc
namespace: dev
mtls: PERMISSIVE
outbound: REGISTRY_ONLY
accessLog: access.log
ports:
- {port: $strict, mtls: STRICT, app: "$app"}
- {port: $permissive, mtls: PERMISSIVE, app: "$app"}
- {port: $disabled, mtls: DISABLE, app: "$app"}
- {port: $header, proxyProtocol: v2, app: "$app"}
- {port: $default, app: "$app"}
services:
- {host: db.dev.svc, addresses: [127.0.0.1], ports: [$service], endpoints: [{address: 127.0.0.1, port: $strict}], identities: ["spiffe://cluster.local/ns/dev/sa/uc"]}
`

const authorization = `authorization:
- {name: web, ports: [$strict, $permissive], principals: ["spiffe://cluster.local/ns/dev/sa/web", "spiffe://cluster.local/ns/dev/sa/uc"]}
- {name: host, ports: [$disabled], ipBlocks: [127.0.0.0/8]}
- {name: elsewhere, ports: [$default], ipBlocks: [192.0.2.0/24]}
- {name: bad, action: DENY, principals: ["spiffe://cluster.local/ns/dev/sa/bad"]}
`

// How a client calls: in plaintext, with TLS of the application's own, or as a
// SPIFFE ID of the mesh.
const (
	inPlain = "plaintext"
	inTLS   = "TLS"
	badID   = "spiffe://cluster.local/ns/dev/sa/bad"
)

// reached is what a call came to.
const (
	byApp    = "the application, in plaintext"
	byAppTLS = "the application's own TLS"
	byHeader = "the application, after a PROXY header"
	byNobody = "nobody"
)

type portCase struct{ port, client, want string }

// chained says that there is a filter chain for the call, so that it is logged,
// also if it is refused: STRICT has none for plaintext.
func (c portCase) chained() bool { return c.port != "strict" || c.client != inPlain }

var portCases = map[string][]portCase{
	"": {
		{"strict", inPlain, byNobody}, {"strict", inTLS, byNobody}, {"strict", webID, byApp},
		{"permissive", inPlain, byApp}, {"permissive", inTLS, byAppTLS}, {"permissive", webID, byApp}, {"permissive", badID, byApp},
		{"disabled", inPlain, byApp}, {"disabled", inTLS, byAppTLS},
		{"header", inPlain, byHeader}, {"header", webID, byHeader},
		{"default", inPlain, byApp}, {"default", inTLS, byAppTLS}, {"default", webID, byApp},
		{"service", inPlain, byApp},
	},
	authorization: {
		{"strict", inPlain, byNobody}, {"strict", webID, byApp}, {"strict", badID, byNobody}, {"strict", "spiffe://cluster.local/ns/dev/sa/x", byNobody},
		{"permissive", inPlain, byNobody}, {"permissive", inTLS, byNobody}, {"permissive", webID, byApp}, {"permissive", badID, byNobody},
		{"disabled", inPlain, byApp}, {"disabled", inTLS, byAppTLS},
		{"header", webID, byNobody}, {"default", webID, byNobody},
		{"service", inPlain, byApp},
	},
}

// portRun is one proxy on a short file, with ports of its own.
type portRun struct {
	*running
	world *world
	file  string            // the bootstrap
	addrs map[string]string // by the names of ports
	names *strings.Replacer // from ports to their names
}

func startPorts(t *testing.T, k kind, w *world, app, short string) *portRun {
	t.Helper()
	p := &portRun{world: w, addrs: map[string]string{}}
	in, out := []string{"$app", app}, []string{}
	for _, name := range portNames {
		p.addrs[name] = freePort(t)
		_, port, _ := net.SplitHostPort(p.addrs[name])
		in, out = append(in, "$"+name, port), append(out, port, "$"+name)
	}
	p.names = strings.NewReplacer(out...)
	dir := t.TempDir()
	w.agent(dir, ucID)
	bootstrap := edited(t, printed(t, strings.NewReplacer(in...).Replace(short)), func(l tree) (bound []tree) {
		switch l["name"] {
		case "virtualInbound":
			for _, name := range portNames[:5] {
				bound = append(bound, at(l, name, p.addrs[name]))
			}
			return bound
		case "virtualOutbound":
			return []tree{at(l, "virtualOutbound", "127.0.0.1:0")}
		}
		return []tree{at(l, "service", p.addrs["service"])}
	})
	p.running = start(t, k, dir, bootstrap).ready()
	p.file = filepath.Join(dir, "bootstrap.yaml")
	return p
}

// call calls a port once.
func (p *portRun) call(port, client string) string {
	p.t.Helper()
	raw, err := net.DialTimeout("tcp", p.addrs[port], patience)
	if err != nil {
		p.t.Fatal(err)
	}
	defer raw.Close()
	c := raw
	switch client {
	case inPlain:
	case inTLS:
		c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	default:
		pair := issuePair(p.t, p.world.root, client)
		c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair.TLS}, NextProtos: []string{"istio"}})
	}
	line, err := exchange(c)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		p.t.Errorf("%s: a call of %s by %s is not answered", p.kind, port, client)
	case err != nil:
		return byNobody
	}
	return line
}

// exchange sends a line, and returns the one that comes back.
func exchange(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "who is there\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// appOfAllKinds answers a line with how it came: plain, in TLS of the
// application's own, or after a PROXY header.
func appOfAllKinds(t *testing.T) string {
	t.Helper()
	root, err := ca.New("the application's")
	if err != nil {
		t.Fatal(err)
	}
	pair := issuePair(t, root, "https://app")
	return serve(t, func(raw net.Conn) {
		raw.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(raw)
		first, err := r.Peek(1)
		if err != nil {
			return
		}
		said, c := byApp, net.Conn(readConn{raw, r})
		switch first[0] {
		case 0x16: // a TLS handshake record
			said, c = byAppTLS, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair.TLS}})
		case '\r': // of the PROXY protocol's signature
			said = byHeader
			if _, err := r.Discard(12); err != nil { // itself
				return
			}
			head, err := r.Peek(4)
			if err != nil {
				return
			}
			if _, err := r.Discard(4 + int(head[2])<<8 + int(head[3])); err != nil {
				return
			}
		}
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Fprintln(c, said)
		}
	})
}

// readConn is a connection of which some bytes are read already.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// accessLines waits for n lines of the access log, and returns of each what
// does not depend on addresses and times. Of who was refused it is the chain
// and the peer: Envoy chooses the cluster before it asks who it is.
func (p *portRun) accessLines(n int) []string {
	p.t.Helper()
	var out []string
	p.wait(fmt.Sprintf("access log with %d lines", n), func() bool {
		out = out[:0]
		for line := range strings.Lines(p.running.file("access.log", "\n")) {
			out = append(out, p.names.Replace(accessWords(line)))
		}
		return len(out) >= n
	})
	slices.Sort(out)
	return out
}

func accessWords(line string) string {
	words := strings.Fields(line)[1:]
	wanted := []string{"tls", "peer", "cluster", "upstream_peer", "flags"}
	if slices.Contains(words, "tx=0") {
		wanted = []string{"peer"}
	}
	kept := words[:1:1] // the chain
	for _, w := range words[1:] {
		if key, _, pair := strings.Cut(w, "="); pair && slices.Contains(wanted, key) {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, " ")
}

// explained is what `outrider explain` says of a call: the end that it would
// come to, as far as it sees (it does not know the application).
func (p *portRun) explained(port, client string) (refused string) {
	p.t.Helper()
	args := []string{"explain", "-c", p.file, "--listener", port, "--source", "127.0.0.1:40000", "--json"}
	switch client {
	case inPlain:
	case inTLS:
		args = append(args, "--tls")
	default:
		args = append(args, "--tls", "--alpn", "istio", "--peer", client)
	}
	var out struct {
		Refused string `json:"refused"`
		TLS     *struct {
			Verdict string `json:"verdict"`
		} `json:"downstream_tls"`
	}
	text := output(p.t, args...)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		p.t.Fatalf("explain: %v\n%s", err, text)
	}
	return out.Refused
}

func TestEachPortOfASidecarIsServedAsItsFileSaysByBothProxies(t *testing.T) {
	for rules, cases := range portCases {
		name := "no authorization"
		if rules != "" {
			name = "authorization"
		}
		t.Run(name, func(t *testing.T) {
			w, app := newWorld(t), appOfAllKinds(t)
			var lines [2][]string
			for i, k := range kinds {
				p := startPorts(t, k, w, app, shortFile+rules)
				logged := 2 // the service's call is two, and the last one is to no service
				for _, c := range cases {
					if got := p.call(c.port, c.client); got != c.want {
						t.Errorf("%s: %s, called by %s: %s, want %s", k, c.port, c.client, got, c.want)
					}
					if refused := p.explained(c.port, c.client); (refused != "") != (c.want == byNobody) {
						t.Errorf("explain: %s, called by %s: refused %q, though it is answered by %s", c.port, c.client, refused, c.want)
					}
					if c.chained() {
						logged++
					}
				}
				if got, err := ask(p.addr("virtualOutbound"), "x"); got != "" {
					t.Errorf("%s: what is no service, under REGISTRY_ONLY: %q %v", k, got, err)
				}
				lines[i] = p.accessLines(logged)
				if len(lines[i]) != logged {
					t.Errorf("%s: %d connections are logged, want %d:\n%s", k, len(lines[i]), logged, strings.Join(lines[i], "\n"))
				}
			}
			if !slices.Equal(lines[0], lines[1]) {
				t.Errorf("Envoy logs\n%s\noutrider logs\n%s", strings.Join(lines[0], "\n"), strings.Join(lines[1], "\n"))
			}
		})
	}
}
