package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// peer is a program that is measured.
type peer struct {
	name    string
	about   string // what it is, for the document
	none    bool   // no proxy
	binary  string
	version string
	missing string // why it cannot be measured; "" if it can

	// refuses is why it does not do a scene; nil and "" if it does.
	refuses func(scene) string
	// command is how one proxy is started, its files written.
	command func(p *peer, h hop) (argv, env []string, err error)
	// speaks is what the client of an HTTP scene is answered with by the server
	// at the end; nil if it is what the client speaks.
	speaks func(http string) string
}

// backend is what the server at the end of an HTTP scene must speak.
func (p *peer) backend(http string) string {
	if p.speaks == nil {
		return http
	}
	return p.speaks(http)
}

// does is why a peer is not measured in a scene; "" if it is.
func (p *peer) does(s scene) string {
	if p.missing != "" {
		return p.missing
	}
	if p.refuses == nil {
		return ""
	}
	return p.refuses(s)
}

func noHTTP(s scene) string {
	if s.http != "" {
		return "not applicable: it moves bytes and knows no requests"
	}
	return ""
}

func directRefuses(s scene) string {
	if s.rest {
		return "not applicable: it is this program"
	}
	return noHTTP(s)
}

// allPeers finds or builds every peer, in the order of the tables. dir takes
// what is built.
func allPeers(ctx context.Context, dir string) []*peer {
	all := []*peer{
		outriderPeer(ctx, dir), envoyPeer(ctx),
		nginxPeer(ctx), haproxyPeer(ctx), ghostunnelPeer(ctx),
		floorPeer(ctx, dir),
		{name: "direct", about: "no proxy: the server itself is on the proxies' CPU and speaks TLS (Go)", none: true, refuses: directRefuses},
	}
	return all
}

// found makes p one that can be measured, or says why not.
func (p *peer) found(binary string, err error) *peer {
	if err != nil {
		p.missing = "missing: " + strings.TrimSpace(err.Error())
	}
	p.binary = binary
	return p
}

// goBuild builds a program of this module.
func goBuild(ctx context.Context, to, pkg string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return to, nil
}

// outriderPeer is $OUTRIDER, or is built from this tree.
func outriderPeer(ctx context.Context, dir string) *peer {
	p := &peer{name: "outrider", about: "this tree", command: func(p *peer, h hop) ([]string, []string, error) {
		path, err := envoyConfig(h)
		return []string{p.binary, "run", "-c", path, "-l", "error"}, nil, err
	}}
	if own := os.Getenv("OUTRIDER"); own != "" {
		return p.found(own, nil)
	}
	p = p.found(goBuild(ctx, filepath.Join(dir, "outrider"), "outrider/cmd/outrider"))
	p.version = output(ctx, "git", "describe", "--always", "--dirty")
	return p
}

// envoyPeer is $ENVOY.
func envoyPeer(ctx context.Context) *peer {
	p := &peer{name: "envoy", about: "from its PyPI package", command: func(p *peer, h hop) ([]string, []string, error) {
		path, err := envoyConfig(h)
		return []string{p.binary, "-c", path, "--concurrency", strconv.Itoa(max(1, h.workers)), "--disable-hot-restart", "-l", "error"}, nil, err
	}}
	binary := os.Getenv("ENVOY")
	if binary == "" {
		return p.found("", errors.New("ENVOY is not set to its binary"))
	}
	text := output(ctx, binary, "--version")
	_, after, _ := strings.Cut(text, "version: ") // HASH/1.40.0/Clean/RELEASE/BoringSSL
	if f := strings.Split(after, "/"); len(f) > 1 {
		p.version = f[1]
	}
	if p.version == "" {
		return p.found("", fmt.Errorf("%s --version says %q", binary, text))
	}
	return p.found(binary, nil)
}

func floorPeer(ctx context.Context, dir string) *peer {
	p := &peer{name: "floor", about: "the simplest Go proxy: crypto/tls and io.Copy (bench/peers/floor)", refuses: noHTTP}
	p.command = func(p *peer, h hop) ([]string, []string, error) {
		return []string{p.binary, "-listen", h.listen, "-target", h.target,
			fmt.Sprintf("-in=%t", h.in), fmt.Sprintf("-out=%t", h.out),
			"-cert", h.ids.file(h.role() + ".pem"), "-key", h.ids.file(h.role() + ".key"),
			"-root", h.ids.file("root.pem"), "-name", serverName}, nil, nil
	}
	return p.found(goBuild(ctx, filepath.Join(dir, "floor"), "outrider/bench/peers/floor"))
}

// output is what a command prints, "" if it fails.
func output(ctx context.Context, argv ...string) string {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
