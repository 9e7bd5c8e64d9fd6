package netnstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience is how long a connection or an answer may take before a test fails:
// far longer than on the slowest machine.
const patience = 10 * time.Second

// Listen opens a listener in the host, owned by u, and closes it with the test.
// Addresses are numbers. With transparent it takes connections to any address
// (IP_TRANSPARENT), as TPROXY hands them over.
func (h *Host) Listen(t testing.TB, u User, address string, transparent bool) net.Listener {
	t.Helper()
	var l net.Listener
	lc := net.ListenConfig{}
	if transparent {
		lc.Control = control(func(fd int) error { return setTransparent(fd) })
	}
	err := h.DoAs(u, func() (err error) {
		l, err = lc.Listen(t.Context(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatalf("host %s: listen on %s: %v", h.Name, address, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket is Listen for UDP.
func (h *Host) ListenPacket(t testing.TB, u User, address string) net.PacketConn {
	t.Helper()
	var p net.PacketConn
	err := h.DoAs(u, func() (err error) {
		p, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatalf("host %s: UDP on %s: %v", h.Name, address, err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Dial is how a connection is made from a host.
type Dial struct {
	User User
	// Mark is the socket's SO_MARK; 0 is none.
	Mark uint32
	// Local is the address it is made from; "" leaves it to the kernel.
	Local string
	// UDP makes a UDP socket.
	UDP bool
}

// Connect connects from the host to an address of numbers. It waits no longer
// than patience.
func (h *Host) Connect(d Dial, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: patience}
	network := "tcp"
	if d.UDP {
		network = "udp"
	}
	if d.Local != "" {
		ip, err := netip.ParseAddr(d.Local)
		if err != nil {
			return nil, err
		}
		dialer.LocalAddr = &net.TCPAddr{IP: ip.AsSlice()}
		if d.UDP {
			dialer.LocalAddr = &net.UDPAddr{IP: ip.AsSlice()}
		}
	}
	if d.Mark != 0 {
		dialer.Control = control(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.Mark))
		})
	}
	var c net.Conn
	err := h.DoAs(d.User, func() (err error) {
		c, err = dialer.DialContext(context.Background(), network, address)
		return err
	})
	return c, err
}

// Banner answers each connection of l with a line, and closes it, until l is
// closed. The test waits for it to end.
func Banner(t testing.TB, l net.Listener, line func(c *net.TCPConn) string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if tcp, ok := c.(*net.TCPConn); ok {
				c.SetDeadline(time.Now().Add(patience))
				fmt.Fprintln(c, line(tcp))
			}
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// OriginalDestination is where a REDIRECTed connection was to go, as the
// kernel's connection tracking knows (SO_ORIGINAL_DST). It is an error where
// the connection was not redirected by NAT and not tracked.
func OriginalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("local address %s is no TCP address", c.LocalAddr())
	}
	var dst netip.AddrPort
	var inner error
	err = raw.Control(func(fd uintptr) { dst, inner = originalDestination(int(fd), local.IP.To4() != nil) })
	return dst, errors.Join(err, inner)
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

func originalDestination(fd int, four bool) (netip.AddrPort, error) {
	if four {
		var sa unix.RawSockaddrInet4
		if err := getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), bigEndian(sa.Port)), nil
	}
	var sa unix.RawSockaddrInet6
	if err := getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), bigEndian(sa.Port)), nil
}

func getsockopt(fd, level int, value unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soOriginalDst, uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return fmt.Errorf("SO_ORIGINAL_DST: %w", errno)
	}
	return nil
}

// bigEndian is a port as the kernel left it in memory.
func bigEndian(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// setTransparent lets a socket be bound to, and take, addresses that are not the
// host's. Each level is refused by sockets of the other family.
func setTransparent(fd int) error {
	four := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	six := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	if four != nil && six != nil {
		return fmt.Errorf("IP_TRANSPARENT: %w", four)
	}
	return nil
}

func control(f func(fd int) error) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var inner error
		return errors.Join(c.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
	}
}
