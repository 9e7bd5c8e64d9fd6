package listener

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"outrider/proxy/config"
)

// Server is who would serve a connection if it turned out to be plaintext. It
// is asked while the client is silent, for there are protocols in which the
// server speaks first: a client of those would wait for ever to be sniffed.
// Envoy has no such thing.
type Server interface {
	// Patience is how long the client may be silent before Watch.
	Patience() time.Duration
	// Watch begins to find out whether the server speaks first, and does not
	// block. done is called once, from another goroutine: with true as soon as
	// the connection may go on as plaintext, with false if that will not be
	// found. Watch is false, and done is never called, if there is nobody to
	// watch.
	Watch(done func(spoke bool)) bool
}

// errServerFirst says that the client is silent and the server spoke.
var errServerFirst = errors.New("the server speaks first")

// watch is what became of the server while the client is waited for.
type watch struct {
	mu    sync.Mutex
	conn  net.Conn      // guarded by mu; nil when nobody waits any more
	spoke bool          // guarded by mu
	over  chan struct{} // closed with the result
}

// done takes the result, and wakes whoever waits for the client.
func (w *watch) done(spoke bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoke = spoke
	close(w.over)
	if spoke && w.conn != nil {
		giveUp(w.conn)
	}
}

// leave ends the waiting: after it the connection is not woken any more.
func (w *watch) leave() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = nil
}

func (w *watch) serverSpoke() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spoke
}

// firstByte waits for the first byte of the client, or for the server, if that
// speaks first: then it returns errServerFirst. What the client has sent counts
// more than what the server says.
func (i *inspection) firstByte() error {
	if i.server == nil || i.watch != nil {
		return i.more(1)
	}
	if ok, err := i.peek.have(1); ok || err != nil {
		return err
	}
	i.arm()
	if err := i.patience(); err != nil || i.peek.n > 0 {
		return err
	}
	w := &watch{conn: i.conn, over: make(chan struct{})}
	if !i.server.Watch(w.done) {
		return i.more(1)
	}
	i.watch = w
	err := i.more(1)
	if errors.Is(err, errPeerClosed) && i.peek.n == 0 {
		err = i.afterHalfClose(err)
	}
	w.leave()
	if !w.serverSpoke() || i.givenUp() != nil {
		return err
	}
	return i.whoWasFirst()
}

// whoWasFirst looks at the client once more after the server has spoken, which
// made the connection's deadline pass.
func (i *inspection) whoWasFirst() error {
	i.conn.SetReadDeadline(i.deadline) //nolint:errcheck // a closed connection shows in the read
	i.begun = false
	ok, err := i.peek.have(1)
	switch {
	case ok:
		return nil
	case err != nil && !errors.Is(err, errPeerClosed):
		return err
	}
	return errServerFirst
}

// patience waits for the client for as long as the server is not to be asked.
// It returns nil after that time too.
func (i *inspection) patience() error {
	p := i.server.Patience()
	if p <= 0 {
		return nil
	}
	until := time.Now().Add(p)
	if !i.deadline.IsZero() && i.deadline.Before(until) {
		return i.wait(1) // listener_filters_timeout is shorter: nobody is asked
	}
	i.conn.SetReadDeadline(until) //nolint:errcheck // a closed connection shows in the read
	err := i.wait(1)
	i.conn.SetReadDeadline(i.deadline) //nolint:errcheck // as before
	if gone := i.givenUp(); gone != nil {
		return gone
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// afterHalfClose waits for the server alone: the client will send nothing, and
// may yet read. closed is what to return if the server says nothing.
func (i *inspection) afterHalfClose(closed error) error {
	limit := i.partial
	if !i.deadline.IsZero() {
		limit = time.Until(i.deadline)
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-i.watch.over:
		return closed
	case <-timeout.C:
		return os.ErrDeadlineExceeded
	case <-i.ctx.Done():
		return context.Cause(i.ctx)
	}
}

// othersOnlyInspect reports whether nothing after step n can change what the
// connection is matched by but its own bytes.
func (f *Filters) othersOnlyInspect(n int) bool {
	for _, s := range f.steps[n+1:] {
		if !s.inspects {
			return false
		}
	}
	return true
}

// inspects reports whether a filter does nothing but look at the client's
// bytes.
func inspects(f *config.ListenerFilter) bool { return f.TLSInspector != nil || f.HTTPInspector != nil }
