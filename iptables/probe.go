package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Probe tries the redirection with connections of its own: it listens where the
// sidecar will, calls an address that must be redirected, and looks where the
// call was to. It works in the network namespace of the calling thread, and
// before the sidecar is there, which needs the same ports.
//
// Outbound is tried as this process, unless that is the proxy's user; inbound as
// the proxy, if this process may be that. What cannot be tried is left out, and
// told by the log; nothing that can be tried is an error.
type Probe struct {
	Config Config
	// Port is what is called: any that is redirected.
	Port uint16
	// Timeout is for each try.
	Timeout time.Duration
}

// try is one call.
type try struct {
	what    string
	listen  netip.AddrPort
	to      netip.AddrPort
	asProxy bool
}

// Probe tries what p says.
func (i *Installer) Probe(ctx context.Context, p Probe) error {
	if p.Port == 0 {
		return errors.New("probe port 0: it is from 1 to 65535")
	}
	var errs []error
	tried := 0
	for _, t := range p.tries() {
		if why := p.cannot(t); why != "" {
			i.Log.Info("redirection is not tried", "what", t.what, "reason", why)
			continue
		}
		err := p.do(ctx, t)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, errNotProxy) {
			i.Log.Info("redirection is not tried", "what", t.what, "reason", err)
			continue
		}
		tried++
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.what, err))
			continue
		}
		i.Log.Info("redirection works", "what", t.what, "to", t.to)
	}
	if tried == 0 {
		return errors.New("nothing of the redirection could be tried: the log has the reasons")
	}
	return errors.Join(errs...)
}

// Addresses that are nobody's (RFC 5737, RFC 3849).
func nobody4() netip.Addr { return netip.MustParseAddr("192.0.2.1") }

func nobody6() netip.Addr { return netip.MustParseAddr("2001:db8::1") }

func (p Probe) tries() []try {
	families := []struct {
		name                     string
		loopback, source, nobody netip.Addr
	}{{"IPv4", netip.MustParseAddr("127.0.0.1"), source4().Addr(), nobody4()}, {"IPv6", loopback6().Addr(), source6().Addr(), nobody6()}}
	if !p.Config.IPv6 {
		families = families[:1]
	}
	var out []try
	for _, f := range families {
		if p.Config.takesInbound() {
			out = append(out, try{"inbound, " + f.name, netip.AddrPortFrom(f.loopback, p.Config.InboundPort), netip.AddrPortFrom(f.source, p.Port), true})
		}
		if to, ok := p.outbound(f.nobody); ok {
			out = append(out, try{"outbound, " + f.name, netip.AddrPortFrom(f.loopback, p.Config.OutboundPort), to, false})
		}
	}
	return out
}

// outbound is an address of nobody's family that is to be redirected.
func (p Probe) outbound(nobody netip.Addr) (netip.AddrPort, bool) {
	c := p.Config
	free := func(a netip.Addr) bool {
		return !slices.ContainsFunc(c.ExcludeOutboundCIDRs, func(x netip.Prefix) bool { return x.Contains(a) })
	}
	taken := !slices.Contains(c.ExcludeOutboundPorts, p.Port)
	switch {
	case c.AllOutbound && taken && free(nobody):
		return netip.AddrPortFrom(nobody, p.Port), true
	case len(c.OutboundPorts) > 0 && free(nobody):
		return netip.AddrPortFrom(nobody, c.OutboundPorts[0]), true
	}
	for _, r := range c.OutboundCIDRs {
		a := r.Addr()
		if next := a.Next(); r.Contains(next) { // the first is often the network's
			a = next
		}
		if a.Is4() == nobody.Is4() && !a.IsLoopback() && taken && free(a) {
			return netip.AddrPortFrom(a, p.Port), true
		}
	}
	return netip.AddrPort{}, false
}

// isProxy reports whether this process's sockets are the proxy's.
func (p Probe) isProxy() bool {
	return slices.Contains(p.Config.UIDs, uint32(os.Geteuid())) || slices.Contains(p.Config.GIDs, uint32(os.Getegid()))
}

// cannot says why a call cannot be made; "" is that it can.
func (p Probe) cannot(t try) string {
	c := p.Config
	group := uint32(os.Getegid())
	switch {
	case t.asProxy && !p.isProxy() && len(c.UIDs) == 0 && c.Mark == 0:
		return "the proxy is told by its group, which this process has not"
	case !t.asProxy && p.isProxy():
		return "this process is the proxy's user, whose calls are left alone"
	case !t.asProxy && (len(c.OwnerGroups) > 0 && !slices.Contains(c.OwnerGroups, group) || slices.Contains(c.ExcludeOwnerGroups, group)):
		return fmt.Sprintf("group %d, this process's, is left alone", group)
	}
	return ""
}

// do makes one call.
func (p Probe) do(ctx context.Context, t try) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // such sockets do not tell where a call was to
	l, err := lc.Listen(ctx, "tcp", t.listen.String())
	if err != nil {
		return fmt.Errorf("the sidecar's port is needed, before it is there: %w", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- accept(l, t.to) }()
	conn, err := p.call(ctx, t)
	if err != nil {
		l.Close()
		<-taken
		return err
	}
	defer conn.Close()
	select {
	case <-ctx.Done():
		l.Close()
		<-taken
		return fmt.Errorf("a call to %s did not come to %s: %w", t.to, t.listen, ctx.Err())
	case err := <-taken:
		l.Close()
		return err
	}
}

// accept takes connections until one was to the address. The others are of
// somebody else: what is redirected comes here, whoever calls.
func accept(l net.Listener, to netip.AddrPort) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		was, err := destination(c)
		c.Close()
		if err == nil && was == to {
			return nil
		}
	}
}

// destination is where a connection was to before it was redirected.
func destination(c net.Conn) (to netip.AddrPort, err error) {
	tcp, ok := c.(syscall.Conn)
	if !ok {
		return to, fmt.Errorf("connection of type %T", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return to, err
	}
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return to, fmt.Errorf("local address %s is none of TCP", c.LocalAddr())
	}
	outer := raw.Control(func(fd uintptr) { to, err = originalDst(int(fd), local.IP.To4() != nil) })
	return to, errors.Join(outer, err)
}

// soOriginalDst is SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// originalDst reads a socket address by the types that x/sys has for other
// options of the same size.
func originalDst(fd int, four bool) (netip.AddrPort, error) {
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

// call connects, as the proxy if that is asked for. A call that nobody takes
// ends with ctx.
func (p Probe) call(ctx context.Context, t try) (net.Conn, error) {
	d := net.Dialer{}
	if t.asProxy { // not from the address that is called, whose calls are left alone
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.listen.Addr(), 0))
	}
	if !t.asProxy || p.isProxy() {
		return d.DialContext(ctx, "tcp", t.to.String())
	}
	if mark := p.Config.Mark; mark != 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var inner error
			err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
			return errors.Join(err, inner)
		}
		return d.DialContext(ctx, "tcp", t.to.String())
	}
	back, err := become(p.Config.UIDs[0])
	if err != nil {
		return nil, err
	}
	defer back()
	return d.DialContext(ctx, "tcp", t.to.String())
}

// errNotProxy is a process that cannot call as the proxy.
var errNotProxy = errors.New("this process is not the proxy's user, and may not become it (CAP_SETUID)")

// become makes the sockets that this thread opens another user's (setfsuid(2)),
// which takes CAP_SETUID. The call tells no error, but who the user was.
func become(uid uint32) (back func(), err error) {
	runtime.LockOSThread()
	was, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	back = func() {
		unix.RawSyscall(unix.SYS_SETFSUID, was, 0, 0)
		runtime.UnlockOSThread()
	}
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); now != uintptr(uid) {
		back()
		return nil, errNotProxy
	}
	return back, nil
}
