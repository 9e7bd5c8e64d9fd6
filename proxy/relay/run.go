package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// PanicError is a panic in a relay, as an error: it ends that relay alone.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// relaying is one relay while it runs.
type relaying struct {
	down, up Conn
	opts     Options
	idle     idleWatch
	flows    [2]flow // from the downstream, and from the upstream
	stop     func() bool
	done     func(Result)

	mu      sync.Mutex
	result  Result // guarded by mu; the first cause stays
	decided bool   // guarded by mu
	ended   int    // guarded by mu; directions that have ended in order
	parking parking
}

// Run moves bytes both ways until both sides have ended their direction, one
// fails, nothing moves for too long, or ctx ends. An end of one side is passed
// on to the other when all bytes before it are through, and the other
// direction goes on.
//
// It returns when nothing of it runs any more. It closes neither connection;
// that is the caller's. After anything but Finished both are useless: their
// deadlines have passed, which is how the directions are unblocked. To pass a
// reset on as a reset, as Envoy does, set SO_LINGER to 0 on the other socket
// before closing it.
func Run(ctx context.Context, downstream, upstream Conn, o Options) Result {
	var result Result
	o.Lot = nil
	Start(ctx, downstream, upstream, o, func(r Result) { result = r })
	return result
}

// Start is Run that tells done its result, once and as the last thing, and may
// return before: while nothing moves, a relay that has a Lot has no goroutine.
func Start(ctx context.Context, downstream, upstream Conn, o Options, done func(Result)) {
	r := &relaying{down: downstream, up: upstream, opts: o, done: done}
	r.flows = [2]flow{
		{relaying: r, from: 'd', src: r.down, dst: r.up, first: o.DownstreamFirst, in: o.FromDownstream, out: o.ToUpstream},
		{relaying: r, from: 'u', src: r.up, dst: r.down, first: o.UpstreamFirst, in: o.FromUpstream, out: o.ToDownstream},
	}
	r.begin()
	r.stop = context.AfterFunc(ctx, func() { r.end(Stopped, context.Cause(ctx)) })
	r.run()
}

// run moves bytes until the relay is over or parked.
func (r *relaying) run() {
	for {
		var other sync.WaitGroup
		other.Go(func() { r.direction(&r.flows[1]) })
		r.direction(&r.flows[0])
		other.Wait()
		switch r.leave() {
		case parked:
			return // another goroutine may be at it by now
		case over:
			r.stop()
			r.done(r.finish())
			return
		}
	}
}

func (r *relaying) begin() {
	r.idle.began = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchIdle()
	r.parking.watch(r)
}

func (r *relaying) finish() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopIdle()
	r.parking.stop()
	return r.result
}

// end decides how the relay ended, if it is the first to, and unblocks both
// directions.
func (r *relaying) end(cause Cause, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(cause, err)
}

// endLocked is end with mu held. The deadlines are set under it, so that
// nothing touches the connections after Run has returned.
func (r *relaying) endLocked(cause Cause, err error) {
	if r.decided {
		return
	}
	r.decided = true
	r.result.Cause, r.result.Err = cause, err
	past := time.Unix(1, 0)
	_ = r.down.SetDeadline(past) // it fails only if it is closed, which
	_ = r.up.SetDeadline(past)   // unblocks as well
	r.parking.overturn()
	r.unparkLocked()
}

// sawEnd notes which side ended first.
func (r *relaying) sawEnd(side byte) {
	r.idle.touch()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.FirstEOF == 0 {
		r.result.FirstEOF = side
	}
}

// finished notes that one direction is through.
func (r *relaying) finished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended++
	if r.ended == 2 && !r.decided {
		r.decided = true
		r.result.Cause = Finished
		return
	}
	r.watchIdle() // HalfCloseTimeout may be nearer
}

// direction carries the bytes of one direction to its end, or until it is
// parked.
func (r *relaying) direction(d *flow) {
	defer func() {
		if p := recover(); p != nil {
			r.end(resetOf(d.from), &PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	failed, err := d.run()
	switch {
	case err == errParked: //nolint:errorlint // it is never wrapped
	case err == nil:
		r.finished()
	case failed == reading:
		r.end(resetOf(d.from), err)
	default:
		r.end(resetOf(d.from^'d'^'u'), err)
	}
}

func resetOf(side byte) Cause {
	if side == 'd' {
		return DownstreamReset
	}
	return UpstreamReset
}

// failed is which side of a direction an error is of.
type failed bool

const (
	reading failed = false
	writing failed = true
)

// flow is one direction. Its methods return nil at the end of the source.
type flow struct {
	*relaying
	from     byte
	src, dst Conn
	first    func(Conn) ([]byte, error)
	in, out  *atomic.Uint64
	room     room
	parking  parkingFlow
	splicing *splicing // nil until there are many bytes
}

// run is the whole life of a direction.
func (d *flow) run() (failed, error) {
	if f, err := d.prologue(); err != nil {
		return f, err
	}
	if f, err := d.carry(); err != nil {
		return f, err
	}
	d.sawEnd(d.from)
	if err := d.dst.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return writing, err
	}
	return reading, nil
}

// prologue passes on what first has read and not used.
func (d *flow) prologue() (failed, error) {
	if d.first == nil {
		return reading, nil
	}
	first := d.first
	d.first = nil
	b, err := first(d.src)
	d.received(len(b))
	if err != nil {
		return reading, err
	}
	return writing, d.write(b)
}

// received counts what was read.
func (d *flow) received(n int) {
	if n > 0 {
		d.idle.touch()
		add(d.in, n)
	}
}

// sent counts what was written.
func (d *flow) sent(n int) {
	if n > 0 {
		d.idle.touch()
		add(d.out, n)
	}
}

func add(c *atomic.Uint64, n int) {
	if c != nil {
		c.Add(uint64(n))
	}
}

func (d *flow) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := d.dst.Write(b)
	d.sent(n)
	return err
}
