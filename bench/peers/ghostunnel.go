package main

import (
	"context"
	"errors"
	"os"
	"strings"
)

// ghostunnelPeer is $GHOSTUNNEL. It chooses ciphers by the hardware, as all Go
// programs do; the key exchange is X25519 alone where that is switched.
func ghostunnelPeer(ctx context.Context) *peer {
	p := &peer{name: "ghostunnel", about: "its Go module"}
	p.refuses = func(s scene) string {
		if s.shape == plain {
			return "not applicable: one side is always TLS"
		}
		return noHTTP(s)
	}
	p.command = func(p *peer, h hop) ([]string, []string, error) {
		argv := []string{p.binary, "client", "--override-server-name", serverName}
		if h.in {
			argv = []string{p.binary, "server", "--allow-all"}
		}
		return append(argv, "--listen", h.listen, "--target", h.target, "--quiet", "all",
			"--cert", h.ids.file(h.role()+".pem"), "--key", h.ids.file(h.role()+".key"), "--cacert", h.ids.file("root.pem"),
		), []string{"GODEBUG=tlsmlkem=0,tlssecpmlkem=0"}, nil
	}
	binary := os.Getenv("GHOSTUNNEL")
	if binary == "" {
		return p.found("", errors.New("GHOSTUNNEL is not set to its binary"))
	}
	if f := strings.Fields(output(ctx, binary, "--version")); len(f) > 1 {
		p.version = f[1] // rev VERSION built with ...
	}
	return p.found(binary, nil)
}
