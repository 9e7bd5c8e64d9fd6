package relay

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A goroutine that waits costs its stack, several times what else there is of a
// quiet connection. So a relay in which nothing has moved for a while is parked:
// both its directions return, their sockets are watched by the Lot, and two new
// goroutines go on when there is something to read. A direction waits in a read;
// a read deadline in the past wakes it.

// parkAfter is how long nothing must have moved, by default.
const parkAfter = time.Second

var (
	errParked = errors.New("the relay is parked")         //nolint:gochecknoglobals // an error value
	errStay   = errors.New("the relay is not parked now") //nolint:gochecknoglobals // an error value
)

// parking is what a relay knows of being parked. Its fields are guarded by
// relaying.mu, but for asked.
type parking struct {
	timer *time.Timer // nil: it is never parked
	meet  *sync.Cond  // where the directions wait for each other to leave
	// asked counts how often the directions were asked to leave; wanted says
	// that they are still to.
	asked  atomic.Uint32
	wanted bool
	left   int // directions that have left, or wait for the other to
	parked bool
	ticket ticket
}

// parkingFlow is one direction's part.
type parkingFlow struct {
	waiting atomic.Bool // in a read
	heard   uint32      // how often it has heard that it should leave
}

// watch begins to look whether the relay is quiet; mu is held. It is done again
// by every goroutine that goes on with it.
func (p *parking) watch(r *relaying) {
	lot := r.opts.Lot
	if lot == nil {
		return
	}
	if p.timer != nil {
		p.timer.Reset(lot.after)
		return
	}
	var ok bool
	if p.ticket, ok = newTicket(r.down, r.up); !ok {
		return
	}
	p.meet = sync.NewCond(&r.mu)
	p.timer = time.AfterFunc(lot.after, r.ask)
}

// stop is called with mu held.
func (p *parking) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// ask is what the timer does: it asks both directions to leave if nothing has
// moved, or looks again later.
func (r *relaying) ask() {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.parking
	if r.decided || r.ended > 0 || p.parked || p.wanted {
		return // what is half closed is not parked
	}
	after := r.opts.Lot.after
	if left := after - r.idle.silence(); left > 0 || !r.flows[0].parking.waiting.Load() || !r.flows[1].parking.waiting.Load() {
		p.timer.Reset(max(left, after/4))
		return
	}
	p.wanted = true
	p.asked.Add(1)
	r.wake(time.Unix(1, 0))
}

// wake sets the read deadlines.
func (r *relaying) wake(at time.Time) {
	_ = r.down.SetReadDeadline(at) // it fails only if it is closed,
	_ = r.up.SetReadDeadline(at)   // which reading says
}

// read is a read of the source, as waited has it.
func (d *flow) read() (int, error) {
	d.parking.waiting.Store(true)
	n, err := ReadLazy(d.src, &d.room)
	return n, d.waited(n, err)
}

// waited is what a wait for the source has come to: errParked says that the
// direction has to leave, errStay that it was woken for nothing.
func (d *flow) waited(n int, err error) error {
	d.parking.waiting.Store(false)
	asked := d.relaying.parking.asked.Load()
	if asked == d.parking.heard {
		return err
	}
	d.parking.heard = asked
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		d.stay()
		return err
	}
	return d.meet()
}

// stay calls the parking off: something has come.
func (r *relaying) stay() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.parking.wanted && !r.decided {
		r.wake(time.Time{})
		r.parking.overturn()
		r.parking.timer.Reset(r.opts.Lot.after)
	}
}

// overturn has the directions go on; mu is held.
func (p *parking) overturn() {
	p.wanted = false
	if p.meet != nil {
		p.meet.Broadcast()
	}
}

// meet waits until the other direction has to leave as well, or something
// happens.
func (r *relaying) meet() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.parking
	p.left++
	if p.left == 2 {
		p.meet.Broadcast()
	}
	for p.wanted && p.left < 2 {
		p.meet.Wait()
	}
	if p.wanted {
		return errParked
	}
	p.left--
	return errStay
}

// outcome is why both directions have returned.
type outcome int

const (
	over outcome = iota
	parked
	goOn
)

// leave is what comes after both directions have returned. When it is parked,
// the relay is another goroutine's, at any time.
func (r *relaying) leave() outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.parking
	if p.left < 2 {
		return over
	}
	p.left, p.wanted = 0, false
	if r.decided { // the directions go on and see it
		return goOn
	}
	r.wake(time.Time{})
	if err := r.opts.Lot.park(r); err != nil {
		p.timer.Stop() // it is never parked then
		return goOn
	}
	p.parked = true
	return parked
}

// unpark goes on with a parked relay.
func (r *relaying) unpark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unparkLocked()
}

func (r *relaying) unparkLocked() {
	p := &r.parking
	if !p.parked {
		return
	}
	p.parked = false
	r.opts.Lot.leave(r)
	if !r.decided {
		p.watch(r)
	}
	r.opts.Lot.spawn(r.run)
}

// ticket is what the lot knows a relay by.
type ticket struct {
	number   uint64
	down, up syscall.RawConn
}

// newTicket is false where one of the connections is no socket.
func newTicket(down, up Conn) (t ticket, ok bool) {
	if t.down = rawConn(down); t.down == nil {
		return t, false
	}
	t.up = rawConn(up)
	return t, t.up != nil
}

// rawConn is the socket beneath c; nil if there is none.
func rawConn(c net.Conn) syscall.RawConn {
	for {
		if s, ok := c.(syscall.Conn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = over.NetConn()
	}
}
