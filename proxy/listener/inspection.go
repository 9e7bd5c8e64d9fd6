package listener

import (
	"context"
	"net"
	"time"

	"outrider/proxy/flow"
)

// inspection is one connection on its way through the listener filters. Most
// connections have sent what is needed when they are looked at first; only for
// one that must be waited for there are a deadline, a place among the waiting
// and a watch on the context.
type inspection struct {
	*Filters
	ctx  context.Context //nolint:containedctx // of the one call of Run
	conn net.Conn
	info *flow.Info
	peek peeker
	tls  bool // a ClientHello was found: http_inspector has nothing to do

	armed    bool
	deadline time.Time // listener_filters_timeout; zero without one
	place    *waiter   // nil without a bound
	unwatch  func() bool
	begun    bool // the client has begun, and partialTimeout runs

	server Server // nil: nobody to ask while the client is silent
	watch  *watch // nil: the server is not being watched
}

// more waits until the client has sent want bytes.
func (i *inspection) more(want int) error {
	if ok, err := i.peek.have(want); ok || err != nil {
		return err
	}
	i.arm()
	if i.timeout > 0 {
		return i.wait(want)
	}
	if i.peek.n == 0 { // silence is not bounded
		if err := i.wait(1); err != nil {
			return err
		}
	}
	if !i.begun {
		i.begun = true
		i.conn.SetReadDeadline(time.Now().Add(i.partial)) //nolint:errcheck // a closed connection shows in the read
	}
	return i.wait(want)
}

// consumed says that n bytes are done with: the client may be silent again.
func (i *inspection) consumed(n int) error {
	if err := i.peek.discard(n); err != nil {
		return err
	}
	if i.begun {
		i.begun = false
		return i.conn.SetReadDeadline(time.Time{})
	}
	return nil
}

// wait is peek.more, unless the connection has been given up: then its deadline
// may have been set anew after that was made to pass.
func (i *inspection) wait(want int) error {
	if err := i.givenUp(); err != nil {
		return err
	}
	if i.peek.n == 0 && i.watch.serverSpoke() {
		return errServerFirst
	}
	return i.peek.more(want)
}

// givenUp is why the connection is not waited for any more; nil if it is.
func (i *inspection) givenUp() error {
	if err := i.ctx.Err(); err != nil {
		return err
	}
	if i.place.wasShed() {
		return ErrShed
	}
	return nil
}

// arm bounds the waiting, once.
func (i *inspection) arm() {
	if i.armed {
		return
	}
	i.armed = true
	if i.timeout > 0 {
		i.deadline = time.Now().Add(i.timeout)
		i.conn.SetReadDeadline(i.deadline) //nolint:errcheck // a closed connection shows in the read
	}
	i.unwatch = context.AfterFunc(i.ctx, func() { giveUp(i.conn) })
	i.place = i.waiting.enter(i.conn)
}

// disarm takes the bounds off. If ctx has ended meanwhile it says so, for then
// the deadline may yet be made to pass.
func (i *inspection) disarm() error {
	if !i.armed {
		return nil
	}
	i.place.leave()
	i.watch.leave()
	if !i.unwatch() {
		return context.Cause(i.ctx)
	}
	return i.conn.SetReadDeadline(time.Time{})
}

// giveUp makes c's deadline pass, which wakes whoever waits for it.
func giveUp(c net.Conn) {
	c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a closed connection waits for nothing
}
