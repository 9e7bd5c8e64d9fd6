package netnstest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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
	// Transparent lets Local be an address that is not the host's.
	Transparent bool
	// UDP makes a UDP socket.
	UDP bool
	// Timeout is how long the connection and each answer may take; 0 is far
	// longer than on the slowest machine.
	Timeout time.Duration
}

// Connect connects from the host to an address of numbers.
func (h *Host) Connect(d Dial, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: cmp.Or(d.Timeout, patience)}
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
	dialer.Control = control(d.options)
	var c net.Conn
	err := h.DoAs(d.User, func() (err error) {
		c, err = dialer.DialContext(context.Background(), network, address)
		return err
	})
	return c, err
}

func (d Dial) options(fd int) error {
	var errs []error
	if d.Mark != 0 {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.Mark)))
	}
	if d.Transparent {
		errs = append(errs, setTransparent(fd))
	}
	return errors.Join(errs...)
}

// Ask sends a line by UDP, or makes a connection, and returns what is answered,
// without its end of line. No answer in time is an error.
func (h *Host) Ask(d Dial, address string) (string, error) {
	c, err := h.Connect(d, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(cmp.Or(d.Timeout, patience))); err != nil {
		return "", err
	}
	if d.UDP {
		if _, err := fmt.Fprintln(c, "?"); err != nil {
			return "", err
		}
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// Answer answers each packet of p with a line, until p is closed. The test
// waits for it to end.
func Answer(t testing.TB, p net.PacketConn, line string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			_, from, err := p.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				p.WriteTo([]byte(line+"\n"), from)
			}
		}
	})
	t.Cleanup(func() {
		p.Close()
		wg.Wait()
	})
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
	// x/sys has no getsockopt for socket addresses; these are of the same bytes.
	if four {
		raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", err)
		}
		b := raw.Multiaddr // family, port, address
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), nil
	}
	raw, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("IP6T_SO_ORIGINAL_DST: %w", err)
	}
	port := binary.NativeEndian.AppendUint16(nil, raw.Addr.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(raw.Addr.Addr), binary.BigEndian.Uint16(port)), nil
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
