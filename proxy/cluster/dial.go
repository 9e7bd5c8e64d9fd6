package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// attemptDelay is how long a connection attempt has before the next of the
// endpoint's addresses is tried beside it; source: Envoy's
// HappyEyeballsConnectionImpl.
const attemptDelay = 300 * time.Millisecond

// dialer opens sockets as a cluster's configuration says.
type dialer struct {
	bind      config.BindConfig
	keepalive *config.Keepalive
	// from takes the place of bind's source; nil for none.
	from *flow.Source
	// tell is told of each TCP socket before it connects; nil for nobody.
	tell func(to netip.AddrPort, socket syscall.RawConn)
}

// of is the dialer of one connection, which may have a source of its own. Nil is
// no connection's.
func (d *dialer) of(info *flow.Info) *dialer {
	if info == nil || info.UpstreamSource == nil && info.UpstreamSocket == nil {
		return d
	}
	own := *d
	if own.from = info.UpstreamSource; own.from == nil {
		own.tell = info.UpstreamSocket
	}
	return &own
}

func newDialer(cfg *config.Cluster, fallback config.BindConfig) *dialer {
	bind := cfg.Bind
	if !bind.Source.IsValid() && len(bind.Options) == 0 {
		bind = fallback
	}
	return &dialer{bind: bind, keepalive: cfg.Keepalive}
}

// bindError says that the source address could not be bound.
type bindError struct{ err error }

func (e *bindError) Error() string { return e.err.Error() }
func (e *bindError) Unwrap() error { return e.err }

// dial connects to the first of addresses that answers. Later ones are tried
// beside the earlier after attemptDelay, or at once when those have failed.
func (d *dialer) dial(ctx context.Context, addresses ...config.Address) (net.Conn, error) {
	if len(addresses) == 1 {
		return d.dialOne(ctx, addresses[0])
	}
	return d.race(ctx, interleave(addresses))
}

type attempt struct {
	conn net.Conn
	err  error
}

func (d *dialer) race(ctx context.Context, addresses []config.Address) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, len(addresses))
	running, next := 0, 0
	start := func() {
		address := addresses[next]
		next++
		running++
		go func() {
			conn, err := d.dialOne(ctx, address)
			results <- attempt{conn, err}
		}()
	}
	start()
	var firstErr error
	for running > 0 {
		var later <-chan time.Time
		if next < len(addresses) {
			later = time.After(attemptDelay)
		}
		select {
		case <-later:
			start()
		case r := <-results:
			running--
			if r.err == nil {
				cancel()
				closeOthers(results, running)
				return r.conn, nil
			}
			if firstErr == nil {
				firstErr = r.err
			}
			if next < len(addresses) && ctx.Err() == nil {
				start()
			}
		}
	}
	return nil, firstErr
}

// closeOthers waits for the attempts that were cancelled.
func closeOthers(results <-chan attempt, running int) {
	for range running {
		if r := <-results; r.conn != nil {
			r.conn.Close()
		}
	}
}

// interleave alternates the families, beginning with the first address's.
func interleave(addresses []config.Address) []config.Address {
	var same, other []config.Address
	first := addresses[0].AddrPort.Addr().Is4()
	for _, a := range addresses {
		if a.AddrPort.Addr().Is4() == first {
			same = append(same, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]config.Address, 0, len(addresses))
	for len(same) > 0 || len(other) > 0 {
		if len(same) > 0 {
			out, same = append(out, same[0]), same[1:]
		}
		if len(other) > 0 {
			out, other = append(out, other[0]), other[1:]
		}
	}
	return out
}

func (d *dialer) dialOne(ctx context.Context, a config.Address) (net.Conn, error) {
	nd := net.Dialer{KeepAlive: -1}
	if k := d.keepalive; k != nil {
		nd.KeepAlive = 0
		nd.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: orSystem(k.Time), Interval: orSystem(k.Interval), Count: -1}
		if k.Probes > 0 {
			nd.KeepAliveConfig.Count = int(k.Probes)
		}
	}
	if a.Pipe != "" {
		return nd.DialContext(ctx, "unix", a.Pipe)
	}
	source := d.sourceFor(a.AddrPort.Addr())
	if d.from != nil && source.Addr().Is4() != a.AddrPort.Addr().Is4() {
		return nil, &bindError{fmt.Errorf("the original source %s cannot be bound for %s, which is of the other family", source.Addr(), a.AddrPort)}
	}
	if source.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(source)
	}
	if source.IsValid() || len(d.bind.Options) > 0 || d.tell != nil {
		nd.Control = func(_, _ string, raw syscall.RawConn) error {
			if d.tell != nil {
				d.tell(a.AddrPort, raw)
			}
			return d.control(raw, a.AddrPort.Addr(), source)
		}
	}
	conn, err := nd.DialContext(ctx, "tcp", a.AddrPort.String())
	if err != nil && source.IsValid() && isBind(err) {
		err = &bindError{err}
	}
	return conn, err
}

func orSystem(d time.Duration) time.Duration {
	if d == 0 {
		return -1 // net: leave the system's default
	}
	return d
}

// isBind tells a bind that was refused from a connect that was.
func isBind(err error) bool {
	var sys *os.SyscallError
	return errors.As(err, &sys) && strings.HasPrefix(sys.Syscall, "bind")
}

// sourceFor is the first source address of to's family; invalid if there is
// none, and then the system chooses.
func (d *dialer) sourceFor(to netip.Addr) netip.AddrPort {
	if d.from != nil {
		return d.from.Addr
	}
	if d.bind.Source.IsValid() && d.bind.Source.Addr().Is4() == to.Is4() {
		return d.bind.Source
	}
	for _, extra := range d.bind.Extra {
		if extra.Addr().Is4() == to.Is4() {
			return extra
		}
	}
	return netip.AddrPort{}
}

// control sets the options that a socket needs before it is bound.
func (d *dialer) control(raw syscall.RawConn, to netip.Addr, source netip.AddrPort) error {
	var errs []error
	err := raw.Control(func(fd uintptr) {
		if source.IsValid() && source.Port() == 0 {
			// The port is chosen at connect, so that one source address has
			// 64k ports for each destination and not in all.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		if d.from != nil {
			errs = append(errs, setForeign(int(fd), to, d.from))
		}
		if d.bind.Freebind {
			errs = append(errs, setFreebind(int(fd), to))
		}
		for _, o := range d.bind.Options {
			if o.State == config.StatePrebind {
				errs = append(errs, setOption(int(fd), o))
			}
		}
	})
	return errors.Join(append(errs, err)...)
}

func setFreebind(fd int, to netip.Addr) error {
	if to.Is4() {
		return os.NewSyscallError("bind: setsockopt IP_FREEBIND", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1))
	}
	return os.NewSyscallError("bind: setsockopt IPV6_FREEBIND", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
}

// setForeign lets a socket be bound to an address of another machine. The mark
// is for the rule that routes the answers back to this one. A port that is the
// client's may have a connection before us, which is not quite gone.
func setForeign(fd int, to netip.Addr, from *flow.Source) error {
	level, name, text := unix.SOL_IP, unix.IP_TRANSPARENT, "bind: setsockopt IP_TRANSPARENT"
	if !to.Is4() {
		level, name, text = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "bind: setsockopt IPV6_TRANSPARENT"
	}
	err := os.NewSyscallError(text, unix.SetsockoptInt(fd, level, name, 1))
	if from.Addr.Port() != 0 {
		err = errors.Join(err, os.NewSyscallError("bind: setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
	}
	if from.Mark != 0 {
		err = errors.Join(err, os.NewSyscallError("bind: setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(from.Mark))))
	}
	return err
}

func setOption(fd int, o config.SocketOption) error {
	if o.Buf != nil {
		return os.NewSyscallError("bind: setsockopt", unix.SetsockoptString(fd, o.Level, o.Name, string(o.Buf)))
	}
	return os.NewSyscallError("bind: setsockopt", unix.SetsockoptInt(fd, o.Level, o.Name, o.Int))
}
