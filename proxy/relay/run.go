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

	mu      sync.Mutex
	result  Result // guarded by mu; the first cause stays
	decided bool   // guarded by mu
	ended   int    // guarded by mu; directions that have ended in order
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
	r := &relaying{down: downstream, up: upstream, opts: o}
	r.begin()
	stop := context.AfterFunc(ctx, func() { r.end(Stopped, context.Cause(ctx)) })
	defer stop()
	var other sync.WaitGroup
	other.Go(func() { r.direction('u') })
	r.direction('d')
	other.Wait()
	return r.finish()
}

func (r *relaying) begin() {
	r.idle.touch()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchIdle()
}

func (r *relaying) finish() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopIdle()
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

// direction carries the bytes of one direction to its end: those from the
// downstream ('d') or from the upstream ('u').
func (r *relaying) direction(from byte) {
	defer func() {
		if p := recover(); p != nil {
			r.end(resetOf(from), &PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	d := r.flow(from)
	failed, err := d.run()
	switch {
	case err == nil:
		r.finished()
	case failed == reading:
		r.end(resetOf(from), err)
	default:
		r.end(resetOf(from^'d'^'u'), err)
	}
}

func (r *relaying) flow(from byte) flow {
	o := &r.opts
	if from == 'd' {
		return flow{relaying: r, from: from, src: r.down, dst: r.up,
			first: o.DownstreamFirst, in: o.FromDownstream, out: o.ToUpstream}
	}
	return flow{relaying: r, from: from, src: r.up, dst: r.down,
		first: o.UpstreamFirst, in: o.FromUpstream, out: o.ToDownstream}
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
	b, err := d.first(d.src)
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
