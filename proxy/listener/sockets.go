// Package listener is the way in: sockets, accepting, and the listener filters
// that look at a connection before its filter chain is chosen.
package listener

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/proxy/config"
)

// StatName is the address as Envoy's stats have it: 0.0.0.0_15006, [__]_80.
func StatName(a config.Address) string { return strings.ReplaceAll(a.String(), ":", "_") }

// Listen opens the sockets of cfg, one for each of its addresses. If one
// fails, none stays open.
func Listen(cfg *config.Listener) ([]net.Listener, error) {
	var out []net.Listener
	for _, a := range append([]config.Address{cfg.Address}, cfg.Additional...) {
		ln, err := listenOne(cfg, a)
		if err != nil {
			for _, open := range out {
				open.Close()
			}
			return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
		}
		out = append(out, ln)
	}
	return out, nil
}

func listenOne(cfg *config.Listener, a config.Address) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: control(cfg, a)}
	if cfg.Keepalive != nil {
		lc.KeepAliveConfig = net.KeepAliveConfig{
			Enable: true, Idle: cfg.Keepalive.Time, Interval: cfg.Keepalive.Interval, Count: int(cfg.Keepalive.Probes),
		}
	}
	if a.Pipe != "" {
		return listenPipe(&lc, a)
	}
	network := "tcp4"
	if a.AddrPort.Addr().Is6() {
		network = "tcp6"
		if a.IPv4Compat && a.AddrPort.Addr().IsUnspecified() {
			network = "tcp" // both families
		}
	}
	ln, err := lc.Listen(context.Background(), network, a.AddrPort.String())
	if err != nil {
		return nil, err
	}
	if err := afterListen(ln, cfg); err != nil {
		ln.Close()
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	return ln, nil
}

// listenPipe takes the place of a socket file that nobody listens on.
func listenPipe(lc *net.ListenConfig, a config.Address) (net.Listener, error) {
	if !strings.HasPrefix(a.Pipe, "@") {
		if err := removeStale(a.Pipe); err != nil {
			return nil, err
		}
	}
	ln, err := lc.Listen(context.Background(), "unix", a.Pipe)
	if err != nil {
		return nil, err
	}
	if a.PipeMode != 0 && !strings.HasPrefix(a.Pipe, "@") {
		if err := os.Chmod(a.Pipe, fs.FileMode(a.PipeMode)); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return ln, nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there, and is no socket", path)
	}
	return os.Remove(path)
}

// control sets what must be set before bind.
func control(cfg *config.Listener, a config.Address) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = setOptions(int(fd), cfg, a) })
		return errors.Join(err, failed)
	}
}

func setOptions(fd int, cfg *config.Listener, a config.Address) error {
	set := func(on bool, level, name int, what string) error {
		if !on {
			return nil
		}
		if err := unix.SetsockoptInt(fd, level, name, 1); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	v6 := a.AddrPort.Addr().Is6()
	tcp := a.Pipe == ""
	return errors.Join(
		set(tcp && cfg.ReusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT, "SO_REUSEPORT"),
		set(tcp && cfg.Freebind, unix.SOL_IP, unix.IP_FREEBIND, "IP_FREEBIND"),
		set(tcp && cfg.Transparent, unix.SOL_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT"),
		set(tcp && v6 && cfg.Transparent, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"),
		ApplyOptions(fd, cfg.SocketOptions, config.StatePrebind),
	)
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

// afterListen sets what Envoy sets after bind and listen, and the backlog.
func afterListen(ln net.Listener, cfg *config.Listener) error {
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(
			ApplyOptions(int(fd), cfg.SocketOptions, config.StateBound),
			ApplyOptions(int(fd), cfg.SocketOptions, config.StateListening),
		)
		if cfg.Backlog > 0 && failed == nil {
			failed = unix.Listen(int(fd), int(cfg.Backlog)) // listening again changes the backlog only
		}
	})
	return errors.Join(err, failed)
}

// unmap makes an IPv4-mapped address IPv4.
func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
