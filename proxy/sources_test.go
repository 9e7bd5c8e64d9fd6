package proxy

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// dialTold connects to an address, and tells p of the socket.
func dialTold(t *testing.T, p *passage, to string) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		p.add(netip.MustParseAddrPort(to), raw)
		if from := netip.MustParseAddrPort("127.0.0.1:0"); p.in.has(from, netip.MustParseAddrPort(to)) {
			t.Error("a socket without an address is found")
		}
		return nil
	}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tcpAt(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

func TestSourcesKnowTheSocketsThatAreOpenAndOfTheirConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var s sources
	p := &passage{in: &s}
	to := tcpAt(l.Addr())
	c, closed, other := dialTold(t, p, to.String()), dialTold(t, p, to.String()), dialTold(t, &passage{in: &sources{}}, to.String())
	defer c.Close()
	defer other.Close()
	fromClosed := tcpAt(closed.LocalAddr())
	if !s.has(fromClosed, to) {
		t.Error("a socket of the connection is not found")
	}
	closed.Close() // its address may be another's now
	for _, test := range []struct {
		name     string
		from, to netip.AddrPort
		want     bool
	}{
		{"its own socket", tcpAt(c.LocalAddr()), to, true},
		{"its own socket, asked for again", tcpAt(c.LocalAddr()), to, true},
		{"to elsewhere", tcpAt(c.LocalAddr()), netip.MustParseAddrPort("127.0.0.2:80"), false},
		{"a socket of others", tcpAt(other.LocalAddr()), to, false},
		{"a socket that is closed", fromClosed, to, false},
	} {
		if got := s.has(test.from, test.to); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	dialTold(t, p, to.String()).Close() // nobody asks for it
	p.end()
	if s.has(tcpAt(c.LocalAddr()), to) || len(s.known) > 0 || len(s.dialled) > 0 {
		t.Errorf("after the connection's end there are %d and %d sockets", len(s.known), len(s.dialled))
	}
}
