package accesslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the files of all access logs, each open once however many logs
// write to it. A line is only put aside; each file has a goroutine of its own
// that writes, so that a slow disk or a full pipe holds up no connection and no
// other file. What does not fit is dropped, and counted.
type Files struct {
	flushInterval time.Duration
	flushSize     int
	counts        counts

	mu      sync.Mutex
	files   map[string]*file // guarded by mu
	start   func(*file)      // guarded by mu; nil while Run does not run
	closed  bool             // guarded by mu
	writers sync.WaitGroup   // the goroutines of Run
}

// FilesOptions have Envoy's defaults.
type FilesOptions struct {
	// FlushInterval is how long a line may wait (Envoy:
	// --file-flush-interval-msec); 0 is 10 s. Lines to stdout and stderr wait
	// no longer than 100 ms, for there somebody looks on.
	FlushInterval time.Duration
	// FlushSize is how many bytes are put aside before they are written without
	// waiting (Envoy: --file-flush-min-size-kb); 0 is 64 KiB.
	FlushSize int
}

const (
	defaultFlushInterval = 10 * time.Second // Envoy's
	streamFlushInterval  = 100 * time.Millisecond
	// closeGrace is how long Run and Close wait for a file that takes nothing.
	closeGrace = time.Second
)

// Counts are of all files together. The first five are Envoy's filesystem
// stats of the same names.
type Counts struct {
	WriteBuffered  uint64 // lines put aside
	WriteCompleted uint64 // writes to a file that went through
	WriteFailed    uint64 // writes that did not
	FlushedByTimer uint64
	ReopenFailed   uint64
	// Dropped are lines that were lost: to a file that was too slow, full, or
	// closed.
	Dropped uint64
}

type counts struct {
	buffered, completed, failed, byTimer, reopenFailed, dropped atomic.Uint64
}

// NewFiles makes an empty set.
func NewFiles(o FilesOptions) *Files {
	if o.FlushInterval <= 0 {
		o.FlushInterval = defaultFlushInterval
	}
	if o.FlushSize <= 0 {
		o.FlushSize = flushSize
	}
	return &Files{flushInterval: o.FlushInterval, flushSize: o.FlushSize, files: map[string]*file{}}
}

// open is the file of that path, opened if it is not.
func (fs *Files) open(path string) (*file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.files[path]; f != nil {
		return f, nil
	}
	if fs.closed {
		return nil, fmt.Errorf("%s: the access logs are closed", path)
	}
	f, err := newFile(path, fs.flushInterval, fs.flushSize, &fs.counts)
	if err != nil {
		return nil, err
	}
	fs.files[path] = f
	if fs.start != nil {
		fs.start(f)
	}
	return f, nil
}

// Run writes what the logs put aside, until ctx ends; the rest is for Close.
// It returns nil, a second late if a file takes nothing. It is called once.
func (fs *Files) Run(ctx context.Context) error {
	fs.mu.Lock()
	fs.start = func(f *file) { fs.writers.Go(func() { f.run(ctx) }) }
	for _, f := range fs.files {
		fs.start(f)
	}
	fs.mu.Unlock()
	<-ctx.Done()
	fs.mu.Lock()
	fs.start = nil
	fs.mu.Unlock()
	fs.interrupt()
	fs.wait(&fs.writers)
	return nil
}

// interrupt bounds the writes that are under way.
func (fs *Files) interrupt() {
	for _, f := range fs.all() {
		f.giveUpAt(time.Now().Add(closeGrace))
	}
}

// wait waits, but not for a write to a stream that nothing can interrupt.
func (fs *Files) wait(group *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	grace := time.NewTimer(2 * closeGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	}
}

func (fs *Files) all() []*file {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]*file, 0, len(fs.files))
	for _, f := range fs.files {
		out = append(out, f)
	}
	return out
}

// Reopen opens every file anew, after it was moved away; what is put aside goes
// to the new one. A file that cannot be opened is kept as it was, and is in the
// error.
func (fs *Files) Reopen() error {
	var errs []error
	for _, f := range fs.all() {
		if err := f.reopen(); err != nil {
			fs.counts.reopenFailed.Add(1)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close writes what is left, waiting no more than seconds for files that take
// nothing, and closes the files. Lines that come later are dropped.
func (fs *Files) Close() {
	fs.mu.Lock()
	fs.closed = true
	fs.mu.Unlock()
	fs.interrupt()
	var closing sync.WaitGroup
	for _, f := range fs.all() {
		closing.Go(f.close)
	}
	fs.wait(&closing)
}

// Counts are what the files have done so far.
func (fs *Files) Counts() Counts {
	c := &fs.counts
	return Counts{
		WriteBuffered: c.buffered.Load(), WriteCompleted: c.completed.Load(), WriteFailed: c.failed.Load(),
		FlushedByTimer: c.byTimer.Load(), ReopenFailed: c.reopenFailed.Load(), Dropped: c.dropped.Load(),
	}
}

// Dropped counts lines that were lost to a slow or full file.
func (fs *Files) Dropped() uint64 { return fs.counts.dropped.Load() }

// isStream reports whether path is stdout or stderr.
func isStream(path string) bool { return path == "/dev/stdout" || path == "/dev/stderr" }

// openPath opens a file to append to. Reading as well, as Envoy does it, keeps
// the opening of a pipe from waiting for a reader.
func openPath(path string) (*os.File, error) {
	switch path {
	case "/dev/stdout":
		return os.Stdout, nil
	case "/dev/stderr":
		return os.Stderr, nil
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
}
