package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/flow"
)

func TestServerThatSpeaksFirstIsServedUnderPermissive(t *testing.T) {
	for name, greeting := range map[string]string{"MySQL": mysqlGreeting, "SMTP": smtpGreeting, "more than is read at once": strings.Repeat("x", 100_000)} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, greeting)
			r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: time.Millisecond})
			c := r.dial("127.0.0.1")
			greeted(t, c, greeting)
			c.Close()
			r.wantLog("plain " + a.Addr().String() + " true")
			if got := r.counter("server_first"); got != 1 {
				t.Errorf("server_first is %d, want 1", got)
			}
			if n := a.accepted.Load(); n != 1 {
				t.Errorf("the application saw %d connections, want the one", n)
			}
		})
	}
}

func TestServerThatIsKnownToSpeakFirstIsDialledSooner(t *testing.T) {
	a := newApp(t, smtpGreeting)
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: 2 * time.Second})
	r.serverFirst.memory.found(&flow.Info{Local: flow.Addr{AddrPort: netip.MustParseAddrPort(r.Listening("l")[0].String())}})
	begin := time.Now()
	greeted(t, r.dial("127.0.0.1"), smtpGreeting)
	if took := time.Since(begin); took >= 2*time.Second {
		t.Errorf("the greeting took %s: the server was waited for", took)
	}
	if x, err := r.Explain(Query{Listener: "l", Destination: netip.MustParseAddrPort(r.Listening("l")[0].String())}); err != nil || !strings.Contains(x.Text(), "dialled after 400ms") {
		t.Errorf("explain says %v\n%s", err, x.Text())
	}
}

func TestTLSClientIsServedBehindAServerThatSpeaksFirst(t *testing.T) {
	a := newApp(t, mysqlGreeting)
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: 500 * time.Millisecond})
	greeted(t, r.tlsConn(r.dial("127.0.0.1")), mysqlGreeting)
	greeted(t, r.dial("127.0.0.2"), mysqlGreeting) // now it is known
	greeted(t, r.tlsConn(r.dial("127.0.0.1")), mysqlGreeting)

	// A client that has spoken TLS before, and whose hello is late.
	slow := r.dial("127.0.0.1")
	time.Sleep(600 * time.Millisecond)
	greeted(t, r.tlsConn(slow), mysqlGreeting)
	if got := r.counter("server_first"); got != 1 {
		t.Errorf("server_first is %d, want 1: the plaintext client's", got)
	}
}

// slowly sends what is written in two pieces, with a pause between them.
type slowly struct {
	net.Conn
	pause time.Duration
}

func (s *slowly) Write(b []byte) (int, error) {
	pause := s.pause
	s.pause = 0
	if pause == 0 {
		return s.Conn.Write(b)
	}
	if n, err := s.Conn.Write(b[:len(b)/2]); err != nil {
		return n, err
	}
	time.Sleep(pause)
	n, err := s.Conn.Write(b[len(b)/2:])
	return n + len(b)/2, err
}

func TestHelloInTwoPiecesAroundTheWaitIsTLS(t *testing.T) {
	a := newApp(t, mysqlGreeting)
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: 20 * time.Millisecond})
	c := r.tlsConn(&slowly{Conn: r.dial("127.0.0.1"), pause: 100 * time.Millisecond})
	greeted(t, c, mysqlGreeting)
	if got := r.counter("server_first_dialed"); got != 0 {
		t.Errorf("server_first_dialed is %d, want 0: the client had spoken", got)
	}
}

func TestClientThatSpeaksLateGetsTheConnectionThatWasMadeAhead(t *testing.T) {
	a := newApp(t, "")
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: time.Millisecond})
	c := r.dial("127.0.0.1")
	r.eventually("a connection ahead", func() bool { return a.accepted.Load() == 1 })
	if !echoes(c) {
		t.Fatal("no echo")
	}
	c.Close()
	r.wantLog("plain " + a.Addr().String() + " -")
	if n, unused := a.accepted.Load(), r.counter("server_first_unused"); n != 1 || unused != 0 {
		t.Errorf("the application saw %d connections, %d of them unused; want one that was used", n, unused)
	}
}

func TestTLSClientThatSpeaksLateLeavesTheConnectionThatWasMadeAhead(t *testing.T) {
	a := newApp(t, "")
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: time.Millisecond})
	c := r.dial("127.0.0.1")
	r.eventually("a connection ahead", func() bool { return a.accepted.Load() == 1 })
	if !echoes(r.tlsConn(c)) {
		t.Fatal("no echo")
	}
	r.eventually("the end of the connection ahead", func() bool { return r.counter("server_first_unused") == 1 })
	c.Close()
	r.wantLog("tls " + a.Addr().String() + " -")
}

func TestDialThatFailsOrHangsDoesNotEndTheSniff(t *testing.T) {
	closed := newApp(t, "")
	closed.Close()
	for name, address := range map[string]string{"refused": closed.Addr().String(), "hangs": fullBacklog(t)} {
		t.Run(name, func(t *testing.T) {
			r := permissive{app: address}.serve(t, Options{ServerFirstWait: time.Millisecond})
			c := r.dial("127.0.0.1")
			r.eventually("a dial", func() bool { return r.counter("server_first_dialed") == 1 })
			if err := r.tlsConn(c).HandshakeContext(t.Context()); err != nil {
				t.Errorf("a TLS client is refused: %v", err)
			}
		})
	}
}

// fullBacklog is an address where a connect hangs: nobody accepts, and the
// queue is full.
func fullBacklog(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	setBacklog(t, ln.(*net.TCPListener), 0)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
		cancel()
		if err != nil {
			break
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

func TestNobodyIsDialledWhere(t *testing.T) {
	deny := `
      - {name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, rules: {action: ALLOW, policies: {p: {permissions: [{any: true}], principals: [{authenticated: {principal_name: {exact: "spiffe://td/client"}}}]}}}}}`
	for name, c := range map[string]struct {
		permissive
		options Options
		explain string
	}{
		"plaintext meets no chain (STRICT)": {permissive: permissive{plain: "transport_protocol: raw_buffer, destination_port: 1"}, explain: "plaintext meets no filter chain"},
		"plaintext meets a chain for TLS":   {permissive: permissive{both: true, listener: "listener_filters: [{name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]"}, explain: "terminates TLS"},
		"RBAC denies":                       {permissive: permissive{rbac: deny}, explain: "rbac: denied"},
		"the listener is OUTBOUND":          {permissive: permissive{listener: "traffic_direction: OUTBOUND"}},
		"the listener opts out":             {permissive: permissive{listener: `metadata: {filter_metadata: {outrider: {server_first: false}}}`}},
		"the option is off":                 {options: Options{NoServerFirst: true}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, smtpGreeting)
			c.permissive.app = a.Addr().String()
			c.permissive.listener += "\n    listener_filters_timeout: 0.3s"
			c.options.ServerFirstWait = time.Millisecond
			r := c.permissive.serve(t, c.options)
			conn := r.dial("127.0.0.1")
			if b, _ := io.ReadAll(conn); len(b) > 0 {
				t.Errorf("the client got %q", b)
			}
			if n := a.accepted.Load(); n != 0 {
				t.Errorf("the application was dialled %d times", n)
			}
			x, err := r.Explain(Query{Listener: "l"})
			if err != nil || !strings.Contains(x.ServerFirst, c.explain) || c.explain == "" && x.ServerFirst != "" {
				t.Errorf("explain says %q, %v, want %q", x.ServerFirst, err, c.explain)
			}
		})
	}
}

func TestFiltersTimeoutEndsAConnectionOnWhichNobodySpeaks(t *testing.T) {
	a := newApp(t, "")
	r := permissive{app: a.Addr().String(), listener: "listener_filters_timeout: 0.2s"}.serve(t, Options{ServerFirstWait: time.Millisecond})
	c := r.dial("127.0.0.1")
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v, want the end", b, err)
	}
	r.eventually("the end of the connection ahead", func() bool { return r.counter("server_first_unused") == 1 })
}

func TestHalfClosedClientGetsTheGreeting(t *testing.T) {
	a := newApp(t, "")
	a.Close()
	ln, err := net.Listen("tcp4", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := permissive{app: a.Addr().String()}.serve(t, Options{ServerFirstWait: time.Millisecond})
	c := r.dial("127.0.0.1")
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	time.Sleep(50 * time.Millisecond) // the proxy sees it first
	io.WriteString(server, smtpGreeting)
	server.Close()
	if b, err := io.ReadAll(c); string(b) != smtpGreeting || err != nil {
		t.Errorf("got %q, %v, want the greeting and the end", b, err)
	}
}

func TestServerThatClosesWithoutAWordLeavesTheClientToSpeak(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.Close() // the first, which is the one made ahead
		}
		c, err := ln.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprintf(c, "got %s", line)
		c.Close()
	}()
	r := permissive{app: ln.Addr().String()}.serve(t, Options{ServerFirstWait: time.Millisecond})
	c := r.dial("127.0.0.1")
	r.eventually("the end of the connection ahead", func() bool { return r.counter("server_first_dial_failed") == 1 })
	io.WriteString(c, "hello\n")
	if b, err := io.ReadAll(c); string(b) != "got hello\n" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestServerMemoryForgetsAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newServerMemory()
		info := func(port int, client string) *flow.Info {
			return &flow.Info{
				Local:  flow.Addr{AddrPort: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(port))},
				Remote: flow.Addr{AddrPort: netip.MustParseAddrPort(client + ":1")},
			}
		}
		a, b := info(3306, "10.0.0.2"), info(3306, "10.0.0.3")
		if got := m.recall(a); got != unknownServer {
			t.Errorf("before anything is found: %d", got)
		}
		m.spokeTLS(b)
		m.found(a)
		if m.recall(a) != speaksFirst || m.recall(b) != speaksTLS {
			t.Errorf("got %d and %d", m.recall(a), m.recall(b))
		}
		time.Sleep(serverMemoryTTL)
		if got := m.recall(a); got != unknownServer {
			t.Errorf("after the TTL: %d", got)
		}
		for port := range 2 * serverMemorySize {
			m.found(info(port+1, "10.0.0.2"))
			time.Sleep(time.Millisecond)
		}
		kept := 0
		for port := range 2 * serverMemorySize {
			if m.recall(info(port+1, "10.0.0.2")) == speaksFirst {
				kept++
			}
		}
		if kept < serverMemorySize/2 || kept > serverMemorySize || m.recall(info(1, "10.0.0.2")) != unknownServer || m.recall(info(2*serverMemorySize, "10.0.0.2")) != speaksFirst {
			t.Errorf("%d servers are remembered, want the newest of %d", kept, serverMemorySize)
		}
	})
}

func TestServerBehindTLSIsWatchedToo(t *testing.T) {
	socket := `, transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}`
	for name, greeting := range map[string]string{"that speaks first": smtpGreeting, "that waits": ""} {
		t.Run(name, func(t *testing.T) {
			a := secureApp(t, greeting)
			r := permissive{app: a.Addr().String(), socket: socket}.serve(t, Options{ServerFirstWait: time.Millisecond})
			c := r.dial("127.0.0.1")
			r.eventually("a connection ahead", func() bool { return a.accepted.Load() == 1 })
			if greeting == "" {
				time.Sleep(50 * time.Millisecond) // its handshake and tickets are through
			}
			greeted(t, c, greeting)
			if n := a.accepted.Load(); n != 1 {
				t.Errorf("the application saw %d connections, want the one", n)
			}
		})
	}
}
