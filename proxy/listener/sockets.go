// Package listener is the way in: sockets, accepting, and the listener filters
// that look at a connection before its filter chain is chosen.
package listener

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/proxy/config"
)

// StatName is the address as Envoy's stats have it, with _ for each colon:
// 0.0.0.0_15006, [__]_15006, the path of a unix socket.
func StatName(a config.Address) string { return strings.ReplaceAll(a.String(), ":", "_") }

// Listen opens the sockets of cfg: that of its address, then those of its
// additional ones. If one fails none stays open, and the error names its
// address. Accepted connections inherit TCP keepalive as cfg has it, which is
// off by default.
//
// A socket file is not removed when its listener is closed, since by then it
// may be another's.
//
// An address that inherited has a socket of is served from that.
func Listen(cfg *config.Listener, inherited *Inherited) ([]net.Listener, error) {
	var out []net.Listener
	for _, a := range append([]config.Address{cfg.Address}, cfg.Additional...) {
		ln, err := inherited.listen(a)
		if ln == nil && err == nil {
			ln, err = listenOne(cfg, a)
		}
		if err != nil {
			for _, open := range out {
				open.Close() //nolint:errcheck // it was never used
			}
			return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
		}
		out = append(out, ln)
	}
	return out, nil
}

func listenOne(cfg *config.Listener, a config.Address) (net.Listener, error) {
	lc := net.ListenConfig{
		// The sockets inherit keepalive from ours, without a system call each.
		KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			return withFD(raw, func(fd int) error { return beforeBind(fd, cfg, a) })
		},
	}
	lc.SetMultipathTCP(false) // its sockets know neither all options nor original destinations
	ln, err := open(&lc, a)
	if err != nil {
		return nil, err
	}
	raw, err := ln.(syscall.Conn).SyscallConn() //nolint:errcheck,forcetypeassert // TCP and unix listeners are
	if err == nil {
		err = withFD(raw, func(fd int) error { return afterListen(fd, cfg) })
	}
	if err != nil {
		ln.Close() //nolint:errcheck // it was never used
		return nil, fmt.Errorf("listen %s: %w", a, err)
	}
	return ln, nil
}

func withFD(raw syscall.RawConn, do func(fd int) error) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

func open(lc *net.ListenConfig, a config.Address) (net.Listener, error) {
	ctx := context.Background() // opening a socket does not block
	if a.Pipe != "" {
		return openPipe(ctx, lc, a)
	}
	if !a.AddrPort.IsValid() {
		return nil, fmt.Errorf("listen %s: no IP address", a)
	}
	network := "tcp4"
	if a.AddrPort.Addr().Is6() {
		network = "tcp6"
		if a.IPv4Compat {
			network = "tcp" // both families, if the address is [::]
		}
	}
	return lc.Listen(ctx, network, a.AddrPort.String())
}

// maxPipe is sun_path without its final zero byte: unix(7).
const maxPipe = 107

// openPipe takes the place of whatever socket has the path, as Envoy does: one
// that a proxy before us has left, or one that it still has, which we replace.
func openPipe(ctx context.Context, lc *net.ListenConfig, a config.Address) (net.Listener, error) {
	if len(a.Pipe) > maxPipe {
		return nil, fmt.Errorf("listen %s: %d bytes, and a unix socket's path has %d at most", a.Pipe, len(a.Pipe), maxPipe)
	}
	abstract := strings.HasPrefix(a.Pipe, "@")
	if !abstract {
		if err := removeSocket(a.Pipe); err != nil {
			return nil, fmt.Errorf("listen %s: %w", a.Pipe, err)
		}
	}
	ln, err := lc.Listen(ctx, "unix", a.Pipe)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck,forcetypeassert // it is one
	if a.PipeMode != 0 && !abstract {
		if err := os.Chmod(a.Pipe, fs.FileMode(a.PipeMode)); err != nil {
			ln.Close() //nolint:errcheck // it was never used
			return nil, fmt.Errorf("listen %s: %w", a.Pipe, err)
		}
	}
	return ln, nil
}

// removeSocket removes the socket at path, if there is one, and nothing else.
func removeSocket(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("a file is in the way that is no socket, but %s", st.Mode())
	}
	return os.Remove(path)
}

// beforeBind sets what must be set before bind.
func beforeBind(fd int, cfg *config.Listener, a config.Address) error {
	if a.Pipe != "" {
		return ApplyOptions(fd, cfg.SocketOptions, config.StatePrebind)
	}
	v6 := a.AddrPort.Addr().Is6()
	var errs []error
	for _, o := range []struct {
		on          bool
		level, name int
		what        string
	}{
		{cfg.ReusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT, "SO_REUSEPORT"},
		{cfg.Freebind, unix.SOL_IP, unix.IP_FREEBIND, "IP_FREEBIND"},
		{cfg.Transparent, unix.SOL_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT"},
		{cfg.Transparent && v6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"},
	} {
		if !o.on {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.what, err))
		}
	}
	errs = append(errs, setKeepalive(fd, cfg.Keepalive), ApplyOptions(fd, cfg.SocketOptions, config.StatePrebind))
	return errors.Join(errs...)
}

// setKeepalive switches keepalive on; what is zero is the system's default.
func setKeepalive(fd int, k *config.Keepalive) error {
	if k == nil {
		return nil
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	for name, value := range map[int]int{
		unix.TCP_KEEPCNT: int(k.Probes), unix.TCP_KEEPIDLE: int(k.Time.Seconds()), unix.TCP_KEEPINTVL: int(k.Interval.Seconds()),
	} {
		if value > 0 {
			err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, name, value))
		}
	}
	if err != nil {
		return fmt.Errorf("tcp_keepalive: %w", err)
	}
	return nil
}

// ApplyOptions sets the options of one state on a socket.
func ApplyOptions(fd int, options []config.SocketOption, state config.SocketState) error {
	var errs []error
	for _, o := range options {
		if o.State != state {
			continue
		}
		var err error
		if o.Buf != nil {
			err = unix.SetsockoptString(fd, o.Level, o.Name, string(o.Buf))
		} else {
			err = unix.SetsockoptInt(fd, o.Level, o.Name, o.Int)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("socket option %d of level %d: %w", o.Name, o.Level, err))
		}
	}
	return errors.Join(errs...)
}

// afterListen sets the options of the states after bind, and the backlog. Go
// binds and listens in one step, so those of STATE_BOUND come a little later
// than in Envoy; no connection is accepted before.
func afterListen(fd int, cfg *config.Listener) error {
	err := errors.Join(
		ApplyOptions(fd, cfg.SocketOptions, config.StateBound),
		ApplyOptions(fd, cfg.SocketOptions, config.StateListening),
	)
	if cfg.Backlog > 0 && err == nil {
		err = unix.Listen(fd, int(min(cfg.Backlog, 1<<31-1))) // again: it changes the backlog only
	}
	return err
}
