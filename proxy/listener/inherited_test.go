package listener

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"outrider/proxy/config"
)

// inherit is a socket as systemd hands it over.
func inherit(t *testing.T, addr string) (*Inherited, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	t.Cleanup(func() { file.Close() })
	in, err := Inherit([]*os.File{file})
	if err != nil {
		t.Fatal(err)
	}
	return in, in.sockets[0].addr.AddrPort()
}

func TestAnInheritedSocketKeepsConnectionsWaitingWhileNobodyAccepts(t *testing.T) {
	in, addr := inherit(t, "127.0.0.1:0")
	cfg := &config.Listener{Name: "l", Address: config.Address{AddrPort: addr}}
	for range 2 { // a restart of the listener
		client, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatalf("while nobody accepts: %v", err)
		}
		defer client.Close()
		lns, err := Listen(cfg, in)
		if err != nil {
			t.Fatal(err)
		}
		c, err := lns[0].Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		lns[0].Close()
	}
}

func TestAnInheritedSocketOfAnyAddressServesAnyAddress(t *testing.T) {
	in, addr := inherit(t, "[::]:0")
	for text, want := range map[string]bool{"0.0.0.0": true, "::": true, "127.0.0.1": false} {
		ln, err := in.listen(config.Address{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(text), addr.Port())})
		if err != nil {
			t.Fatal(err)
		}
		if (ln != nil) != want {
			t.Errorf("a listener of %s is served from [::]: %t, want %t", text, ln != nil, want)
		}
		if ln != nil {
			ln.Close()
		}
	}
	if ln, err := in.listen(config.Address{AddrPort: netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port()+1)}); ln != nil || err != nil {
		t.Errorf("another port: %v, %v", ln, err)
	}
}

func TestWhatIsNoTCPSocketIsNotInherited(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := Inherit([]*os.File{file}); err == nil {
		t.Error("a file was taken for a socket")
	}
}
