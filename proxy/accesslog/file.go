package accesslog

import (
	"context"
	"os"
	"sync"
	"time"
)

const (
	// flushSize is how much is put aside before it is written without waiting
	// for the interval: Envoy's MIN_FLUSH_SIZE.
	flushSize = 64 << 10
	// maxPending is how much may wait for a file that takes nothing.
	maxPending = 4 << 20
)

// file is one open file, with the lines that wait for it.
type file struct {
	path   string
	delay  time.Duration // of the first line that waits
	counts *counts
	some   chan struct{} // cap 1: a line waits
	many   chan struct{} // cap 1: size waits
	size   int           // bytes

	mu      sync.Mutex
	pending []byte    // guarded by mu
	lines   int       // guarded by mu; in pending
	spare   []byte    // guarded by mu; a buffer that was written
	next    *os.File  // guarded by mu; opened anew, to be used from now on
	giveUp  time.Time // guarded by mu; deadline of writes, zero for none
	current *os.File  // guarded by mu; what is written to
	closed  bool      // guarded by mu

	writing sync.Mutex // held by who writes
}

func newFile(path string, delay time.Duration, size int, c *counts) (*file, error) {
	if isStream(path) {
		delay = min(delay, streamFlushInterval)
	}
	opened, err := openPath(path)
	if err != nil {
		return nil, err
	}
	return &file{
		path: path, delay: delay, size: size, counts: c, current: opened,
		some: make(chan struct{}, 1), many: make(chan struct{}, 1),
	}, nil
}

// write puts a line aside; it never waits for the file.
func (f *file) write(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.pending)+len(line) > maxPending {
		f.counts.dropped.Add(1)
		return
	}
	if f.pending == nil {
		f.pending, f.spare = f.spare, nil
	}
	f.pending = append(f.pending, line...)
	f.lines++
	f.counts.buffered.Add(1)
	signal(f.some)
	if len(f.pending) >= f.size {
		signal(f.many)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes until ctx ends. While no line waits it sets no timer.
func (f *file) run(ctx context.Context) {
	timer := time.NewTimer(f.delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.some:
		}
		timer.Reset(f.delay)
		select {
		case <-ctx.Done():
			return
		case <-f.many:
		case <-timer.C:
			f.counts.byTimer.Add(1)
		}
		f.flush()
	}
}

// flush writes what waits. A write that fails loses its lines: to try them
// again would only lose others.
func (f *file) flush() {
	f.writing.Lock()
	defer f.writing.Unlock()
	to, b, lines := f.take()
	if len(b) == 0 {
		return
	}
	n, err := to.Write(b)
	if err == nil {
		f.counts.completed.Add(1)
	} else {
		f.counts.failed.Add(1)
		f.counts.dropped.Add(uint64(lostLines(lines, n, len(b))))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.spare == nil && cap(b) <= 2*f.size {
		f.spare = b[:0]
	}
}

// lostLines is how many lines a write of n of total bytes has lost, at most.
func lostLines(lines, n, total int) int { return lines - lines*n/total }

// take is what to write, and where; it is called by who writes.
func (f *file) take() (to *os.File, b []byte, lines int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next != nil {
		closeFile(f.current)
		f.current, f.next = f.next, nil
	}
	b, lines = f.pending, f.lines
	f.pending, f.lines = nil, 0
	if !f.giveUp.IsZero() {
		_ = f.current.SetWriteDeadline(f.giveUp) // a regular file has none, and needs none
	}
	return f.current, b, lines
}

// reopen opens the path anew, for the next write.
func (f *file) reopen() error {
	if isStream(f.path) {
		return nil
	}
	opened, err := openPath(f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return opened.Close()
	}
	if f.next != nil {
		closeFile(f.next)
	}
	f.next = opened
	return nil
}

// giveUpAt bounds the write that is under way, and those that follow.
func (f *file) giveUpAt(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.giveUp = t
	if f.current != nil {
		_ = f.current.SetWriteDeadline(t) // as above
	}
}

// close writes what is left, and closes.
func (f *file) close() {
	f.mu.Lock()
	already := f.closed
	f.closed = true
	f.mu.Unlock()
	if already {
		return
	}
	f.flush()
	f.mu.Lock()
	defer f.mu.Unlock()
	closeFile(f.current)
	if f.next != nil {
		closeFile(f.next)
	}
}

// closeFile leaves the streams open: they are not ours.
func closeFile(f *os.File) {
	if f != os.Stdout && f != os.Stderr {
		_ = f.Close() // there is nobody to tell
	}
}
