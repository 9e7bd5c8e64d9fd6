package listener

import (
	"fmt"
	"net"
	"os"

	"outrider/proxy/config"
)

// Inherited are listening sockets that whoever started this process has opened
// and keeps open (systemd's socket activation): connections wait in them while
// nobody accepts. The zero value and nil have none.
type Inherited struct{ sockets []inheritedSocket }

type inheritedSocket struct {
	addr *net.TCPAddr
	file *os.File
}

// Inherit takes sockets over, which must be TCP sockets that listen.
func Inherit(files []*os.File) (*Inherited, error) {
	out := &Inherited{}
	for _, f := range files {
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
		}
		addr, ok := ln.Addr().(*net.TCPAddr)
		ln.Close() //nolint:errcheck // a duplicate, only to learn the address
		if !ok {
			return nil, fmt.Errorf("inherited socket %s: it is no TCP socket", f.Name())
		}
		out.sockets = append(out.sockets, inheritedSocket{addr, f})
	}
	return out, nil
}

// Addrs are the addresses of the sockets.
func (i *Inherited) Addrs() []net.Addr {
	if i == nil {
		return nil
	}
	var out []net.Addr
	for _, s := range i.sockets {
		out = append(out, s.addr)
	}
	return out
}

// listen is a listener on the socket of that address, nil if there is none.
// Closing it leaves the socket itself open.
func (i *Inherited) listen(a config.Address) (net.Listener, error) {
	if i == nil || !a.AddrPort.IsValid() {
		return nil, nil
	}
	for _, s := range i.sockets {
		ip, port := s.addr.AddrPort().Addr().Unmap(), s.addr.AddrPort().Port()
		same := ip == a.AddrPort.Addr().Unmap() || ip.IsUnspecified() && a.AddrPort.Addr().IsUnspecified()
		if same && port == a.AddrPort.Port() {
			return net.FileListener(s.file)
		}
	}
	return nil, nil
}
