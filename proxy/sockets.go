package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"outrider/proxy/config"
	"outrider/proxy/listener"
)

// bind opens the listener's sockets; one that must not bind has none.
func (l *liveListener) bind(snap *snapshot) error {
	if snap.cfg.NoBind || l.server.opts.NoSockets {
		return nil
	}
	sockets, err := listener.Listen(snap.cfg, l.server.opts.Inherited)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sockets = sockets
	return nil
}

// serveIfStarted accepts on l's sockets once the server runs.
func (ls *listeners) serveIfStarted(l *liveListener) {
	if ls.server.started.Load() {
		l.startAccepting(ls)
	}
}

// startAccepting serves l's sockets until stopAccepting or the server's end.
func (l *liveListener) startAccepting(ls *listeners) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(l.server.accepting)
	l.stop = stop
	for _, socket := range l.sockets {
		acceptor := &listener.Acceptor{Limit: l.limit, Stats: l.stats.accept, Log: l.server.log}
		if !l.current().cfg.IgnoreGlobalConnLimit {
			acceptor.Global = l.server.globalLimit
		}
		ls.wait.Go(func() { acceptor.Serve(ctx, l.server.serving, socket, l.handle) })
	}
}

// stopAccepting closes the sockets; connections go on.
func (l *liveListener) stopAccepting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
	for _, socket := range l.sockets {
		socket.Close()
	}
	l.sockets = nil
}

// rebinds reports whether next needs other sockets than old.
func rebinds(old, next *config.Listener) bool {
	return socketKey(old) != socketKey(next)
}

// socketKey is everything of a listener that its sockets are made from.
func socketKey(c *config.Listener) string {
	key := struct {
		Addresses                            []config.Address
		NoBind, Transparent, Freebind, Reuse bool
		Backlog                              uint32
		Keepalive                            *config.Keepalive
		Options                              []config.SocketOption
	}{addresses(c), c.NoBind, c.Transparent, c.Freebind, c.ReusePort, c.Backlog, c.Keepalive, c.SocketOptions}
	text, err := json.Marshal(key)
	if err != nil {
		return err.Error() // plain data: cannot be
	}
	return string(text)
}

// rebind moves l to snap's sockets. If the new ones cannot be opened the old
// ones go on.
func (l *liveListener) rebind(ls *listeners, snap *snapshot) error {
	old := l.current()
	next := &liveListener{server: l.server}
	err := next.bind(snap)
	if err == nil {
		l.stopAccepting()
	} else {
		// The old sockets may be what is in the way.
		l.stopAccepting()
		if err = next.bind(snap); err != nil {
			snap = old
			if again := next.bind(old); again != nil {
				err = errors.Join(err, fmt.Errorf("and the old sockets cannot be opened again: %w", again))
			}
		}
	}
	l.mu.Lock()
	l.sockets = next.sockets
	l.mu.Unlock()
	l.snap.Store(snap)
	ls.serveIfStarted(l)
	return err
}

// closeSockets is for a server that does not begin.
func (ls *listeners) closeSockets() {
	for _, l := range ls.sorted() {
		l.stopAccepting()
	}
}

// bound are the addresses of l's sockets.
func (l *liveListener) bound() []net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []net.Addr
	for _, s := range l.sockets {
		out = append(out, s.Addr())
	}
	return out
}
