package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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

	mu       sync.Mutex
	result   Result // guarded by mu; the first cause stays
	decided  bool   // guarded by mu
	ended    int    // guarded by mu; directions that have ended in order
	lastSeen atomic.Int64
}

// Run moves bytes both ways until both sides have ended their direction, one
// fails, nothing moves for too long, or ctx ends. An end of one side is passed
// on to the other when all bytes before it are through, and the other
// direction goes on.
//
// It returns when nothing of it runs any more. After anything but Finished
// both connections are useless, and were made to fail; closing them is the
// caller's.
func Run(ctx context.Context, downstream, upstream Conn, o Options) Result {
	r := &relaying{down: downstream, up: upstream, opts: o}
	r.touch()
	stop := context.AfterFunc(ctx, func() { r.end(Stopped, context.Cause(ctx)) })
	defer stop()
	timer := r.watchIdle()
	var other sync.WaitGroup
	other.Go(func() {
		r.direction('u', r.up, r.down, o.UpstreamFirst, o.FromUpstream, o.ToDownstream)
	})
	r.direction('d', r.down, r.up, o.DownstreamFirst, o.FromDownstream, o.ToUpstream)
	other.Wait()
	if timer != nil {
		timer.stop()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result
}

// touch says that a byte has moved.
func (r *relaying) touch() { r.lastSeen.Store(time.Now().UnixNano()) }

// end decides how the relay ended, if it is the first to, and unblocks both
// directions.
func (r *relaying) end(cause Cause, err error) {
	r.mu.Lock()
	first := !r.decided
	if first {
		r.decided = true
		r.result.Cause, r.result.Err = cause, err
	}
	r.mu.Unlock()
	if first {
		past := time.Unix(1, 0)
		r.down.SetDeadline(past)
		r.up.SetDeadline(past)
	}
}

// sawEnd notes which side ended first.
func (r *relaying) sawEnd(side byte) {
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
	}
}

// halfClosed reports whether exactly one direction has ended.
func (r *relaying) halfClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended == 1
}

// direction carries the bytes of one direction to its end.
func (r *relaying) direction(from byte, src, dst Conn, first func(Conn) ([]byte, error), in, out *atomic.Uint64) {
	defer func() {
		if p := recover(); p != nil {
			r.end(resetOf(from), &PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	d := flow{relaying: r, src: src, dst: dst, in: in, out: out}
	failedRead, err := d.prologue(first)
	if err == nil {
		failedRead, err = d.copy()
	}
	if err == nil {
		r.sawEnd(from)
		if err = dst.CloseWrite(); err == nil || errors.Is(err, net.ErrClosed) {
			r.finished()
			return
		}
	}
	if failedRead {
		r.end(resetOf(from), err)
	} else {
		r.end(resetOf(from^'d'^'u'), err)
	}
}

func resetOf(side byte) Cause {
	if side == 'd' {
		return DownstreamReset
	}
	return UpstreamReset
}

// flow is one direction. Its methods say whether it was the reading that
// failed.
type flow struct {
	*relaying
	src, dst Conn
	in, out  *atomic.Uint64
}

// prologue passes on what first has read and not used.
func (d *flow) prologue(first func(Conn) ([]byte, error)) (failedRead bool, err error) {
	if first == nil {
		return false, nil
	}
	b, err := first(d.src)
	if err != nil {
		return true, err
	}
	return false, d.write(b)
}

// The buffers of a direction while bytes are in flight: 64 KiB holds four TLS
// records, which go out in one write.
const bufferSize = 64 << 10

//nolint:gochecknoglobals // a pool has no state of its own
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copy carries bytes until the source ends (nil) or either side fails. While
// the source is silent it holds no buffer.
func (d *flow) copy() (failedRead bool, err error) {
	spliced, failedRead, err := d.splice()
	if spliced || err != nil {
		return failedRead, err
	}
	for {
		if err := d.src.WaitReadable(); err != nil {
			return true, err
		}
		more, failedRead, err := d.burst()
		if err != nil || !more {
			return failedRead, err
		}
	}
}

// burst carries what is there now. It is false when the source has ended.
func (d *flow) burst() (more, failedRead bool, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, rerr := d.fill(buf)
		if n > 0 {
			d.touch()
			add(d.in, n)
			if err := d.write(buf[:n]); err != nil {
				return false, false, err
			}
		}
		switch {
		case rerr == io.EOF:
			return false, false, nil
		case rerr != nil:
			return false, true, rerr
		case n < bufferSize/2:
			return true, false, nil
		}
	}
}

// pending is what a Conn may have beside its Read: bytes that it would return
// without asking the kernel.
type pending interface{ Pending() bool }

// fill reads once, and goes on as long as more is at hand without waiting, so
// that several records leave in one write.
func (d *flow) fill(buf *[bufferSize]byte) (int, error) {
	n, err := d.src.Read(buf[:])
	p, ok := d.src.(pending)
	if !ok {
		return n, err
	}
	for err == nil && n < bufferSize && p.Pending() {
		var m int
		m, err = d.src.Read(buf[n:])
		n += m
	}
	return n, err
}

func (d *flow) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := d.dst.Write(b)
	add(d.out, n)
	d.touch()
	return err
}

func add(c *atomic.Uint64, n int) {
	if c != nil {
		c.Add(uint64(n))
	}
}

// idleWatch ends a relay in which nothing moves. It is one timer, which looks
// at when a byte was last seen; moving a byte costs no timer.
type idleWatch struct {
	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil once stopped
}

func (r *relaying) watchIdle() *idleWatch {
	shortest := r.patience()
	if shortest == 0 {
		return nil
	}
	w := &idleWatch{}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(shortest, func() { r.look(w) })
	return w
}

// patience is how soon the timer must look again; 0 is never.
func (r *relaying) patience() time.Duration {
	idle, half := r.opts.IdleTimeout, r.opts.HalfCloseTimeout
	if idle == 0 || half > 0 && half < idle {
		return half
	}
	return idle
}

// look ends the relay, or sets the timer to when it could next be over.
func (r *relaying) look(w *idleWatch) {
	limit := r.opts.IdleTimeout
	if half := r.opts.HalfCloseTimeout; half > 0 && r.halfClosed() && (limit == 0 || half < limit) {
		limit = half
	}
	silent := time.Since(time.Unix(0, r.lastSeen.Load()))
	if limit > 0 && silent >= limit {
		r.end(Idle, fmt.Errorf("nothing moved for %s", limit))
		return
	}
	next := r.patience()
	if left := limit - silent; limit > 0 && left < next {
		next = left
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Reset(max(next, time.Millisecond))
	}
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.timer = nil
}

// IsTimeout reports whether err is of a deadline that passed.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
