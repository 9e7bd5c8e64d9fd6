package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// shape is where TLS is.
type shape string

const (
	plain     shape = "plain"     // client - proxy - server, all in plaintext
	terminate shape = "terminate" // client = proxy - server, the first in mTLS
	originate shape = "originate" // client - proxy = server, the second in mTLS
	twoHops   shape = "two-hops"  // client - proxy = proxy - server
)

// hop is what one proxy does.
type hop struct {
	ids            *identities
	dir            string // of its own
	listen, target string
	in, out        bool   // mTLS towards the client, towards the target
	http           string // "", or what the client speaks: h1, h2
	admin          string // where profiles are asked for; "" if they are not
	extent
}

// role is the name of the certificate that the proxy holds.
func (h hop) role() string {
	if h.in {
		return "server"
	}
	return "client"
}

// hostPort is an address in two, as YAML and others want it.
func hostPort(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

// extent is how much configuration a proxy has, and how many CPUs; zero is one
// of each.
type extent struct {
	chains   int // filter chains by server_names; connections match the last
	clusters int // connections go to the last
	workers  int
}

// scene is what a measure needs.
type scene struct {
	extent

	shape   shape
	http    string // "", h1 or h2
	tickets bool   // the server lets clients resume
	rest    bool   // nothing happens
}

// bed is what one measure runs on: proxies, a server behind, and a way to
// connect.
type bed struct {
	h     *harness
	peer  *peer
	scene scene
	addr  string // where a client connects

	silent   bool    // the proxies are ready when they listen
	origin   *origin // nil without a proxy
	backend  *httpBackend
	procs    []*process
	ready    time.Duration // exec to the first answer, of the last proxy started
	sessions tls.ClientSessionCache
	resumed  atomic.Int64
	dirs     []string
	admins   []string // of the proxies, if profiles are taken
}

// Time limits.
const (
	answerTime = 10 * time.Second // for an answer that must come
	readyTime  = 15 * time.Second // for a proxy to be ready
)

// readyTime is longer for much configuration.
func (e extent) readyTime() time.Duration {
	return readyTime + time.Duration(e.chains+e.clusters)*10*time.Millisecond
}

// newBed starts a peer in a scene and checks that its work is the same as the
// others'.
func (h *harness) newBed(ctx context.Context, p *peer, s scene) (_ *bed, err error) {
	b := &bed{h: h, peer: p, scene: s}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w%s", p.name, err, b.logs())
			b.close()
		}
	}()
	if p.none {
		return b, b.startDirect(ctx)
	}
	target, err := b.startOrigin()
	if err != nil {
		return b, err
	}
	switch s.shape {
	case plain:
		b.addr, err = b.start(ctx, hop{target: target})
	case terminate:
		b.addr, err = b.start(ctx, hop{target: target, in: true})
	case originate:
		b.addr, err = b.start(ctx, hop{target: target, out: true})
	case twoHops:
		if target, err = b.start(ctx, hop{target: target, in: true}); err != nil {
			return b, err
		}
		if err := b.refusesStrangers(ctx, target); err != nil {
			return b, err
		}
		b.addr, err = b.start(ctx, hop{target: target, out: true})
	}
	if err != nil {
		return b, err
	}
	return b, b.verify(ctx)
}

// startOrigin starts the server behind the proxies.
func (b *bed) startOrigin() (addr string, err error) {
	if b.scene.http != "" {
		b.backend, err = newHTTPBackend(b.peer.backend(b.scene.http) == "h2")
		if err != nil {
			return "", err
		}
		return b.backend.addr(), nil
	}
	var config *tls.Config
	if b.scene.shape == originate {
		config = b.h.ids.serverTLS(b.scene.tickets)
	}
	if b.origin, err = newOrigin(config); err != nil {
		return "", err
	}
	return b.origin.addr(), nil
}

// startDirect starts the server itself where the proxies would be.
func (b *bed) startDirect(ctx context.Context) (err error) {
	if b.addr, err = b.h.freeAddr(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, originFlag, b.addr, b.h.ids.dir}
	if b.scene.shape != plain {
		argv = append(argv, "tls")
	}
	return b.exec(ctx, argv, nil, b.secure(), b.addr)
}

// start starts a proxy, waits until it answers, and returns where it listens.
func (b *bed) start(ctx context.Context, h hop) (addr string, err error) {
	h.ids, h.http, h.extent = b.h.ids, b.scene.http, b.scene.extent
	if h.listen, err = b.h.freeAddr(); err != nil {
		return "", err
	}
	if h.dir, err = os.MkdirTemp(b.h.dir, b.peer.name+"-"); err != nil {
		return "", err
	}
	b.dirs = append(b.dirs, h.dir)
	if b.h.profiles != "" {
		if h.admin, err = b.h.freeAddr(); err != nil {
			return "", err
		}
		b.admins = append(b.admins, h.admin)
	}
	argv, env, err := b.peer.command(b.peer, h)
	if err != nil {
		return "", err
	}
	return h.listen, b.exec(ctx, argv, env, h.in, h.listen)
}

// exec starts a process on the proxies' CPU and waits until it answers.
func (b *bed) exec(ctx context.Context, argv, env []string, secure bool, addr string) error {
	begin := time.Now()
	p, err := startProcess(b.h.cores.proxies(b.scene.workers), argv, env)
	if err != nil {
		return err
	}
	b.procs = append(b.procs, p)
	for {
		err := b.tryOnce(ctx, addr, secure)
		if err == nil {
			b.ready = time.Since(begin)
			return nil
		}
		switch {
		case p.ended():
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		case time.Since(begin) > b.scene.readyTime():
			return fmt.Errorf("not ready in %s: %w", b.scene.readyTime(), err)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// tryOnce makes one connection and a round trip; of HTTP, only the connection.
func (b *bed) tryOnce(ctx context.Context, addr string, secure bool) error {
	var config *tls.Config
	if secure {
		config = b.h.ids.clientTLS(nil)
	}
	c, err := dial(ctx, addr, config)
	if err != nil || b.scene.http != "" || b.silent {
		if err == nil {
			c.Close()
		}
		return err
	}
	defer c.Close()
	return askOnce(c)
}

// secure is whether a client speaks TLS.
func (b *bed) secure() bool {
	return b.scene.shape == terminate || b.peer.none && b.scene.shape != plain
}

// dial connects as a client of the scene.
func (b *bed) dial(ctx context.Context) (net.Conn, error) {
	var config *tls.Config
	if b.secure() {
		config = b.h.ids.clientTLS(b.sessions)
	}
	c, err := dial(ctx, b.addr, config)
	if s, ok := c.(*tls.Conn); ok && err == nil && s.ConnectionState().DidResume {
		b.resumed.Add(1)
	}
	return c, err
}

// dial connects, and with config makes the handshake.
func dial(ctx context.Context, addr string, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil || config == nil {
		return c, err
	}
	s := tls.Client(c, config)
	if err := s.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if err := sameTLS(s.ConnectionState()); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// cpu is the CPU time of all proxies.
func (b *bed) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range b.procs {
		t, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// memory is the sum of all proxies', in bytes.
func (b *bed) memory() (pss, rss int64, err error) {
	for _, p := range b.procs {
		ps, rs, err := p.memory()
		if err != nil {
			return 0, 0, err
		}
		pss, rss = pss+ps, rss+rs
	}
	return pss, rss, nil
}

// close ends everything, the clients' side of the proxies first.
func (b *bed) close() {
	for i := len(b.procs) - 1; i >= 0; i-- {
		b.procs[i].stop()
	}
	if b.origin != nil {
		b.origin.close()
	}
	if b.backend != nil {
		b.backend.close()
	}
	for _, dir := range b.dirs {
		_ = os.RemoveAll(dir)
	}
}

// logs is what the proxies wrote, for an error.
func (b *bed) logs() string {
	var all string
	for _, p := range b.procs {
		if text := p.log.String(); text != "" {
			all += "\n" + text
		}
	}
	return all
}

// Ports of proxies are below those that the kernel gives to connections: else
// a client's may be taken between the choice and the listening.
const firstPort, lastPort = 12000, 32000

// freeAddr is an address that nobody listens at; each is another.
func (h *harness) freeAddr() (string, error) {
	for h.port < lastPort {
		h.port++
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", h.port)); err == nil {
			defer ln.Close()
			return ln.Addr().String(), nil
		}
	}
	return "", errors.New("no port is free")
}
