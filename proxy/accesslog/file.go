package accesslog

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the files of all access logs, each open once. Lines are gathered
// and written by Run, so that a slow disk or a full pipe holds up nobody: what
// does not fit is dropped, and counted.
type Files struct {
	opts FilesOptions

	mu    sync.Mutex
	files map[string]*file // guarded by mu
}

// FilesOptions have Envoy's defaults.
type FilesOptions struct {
	// FlushInterval is how long a line may wait (Envoy:
	// --file-flush-interval-msec); the default is 10 s.
	FlushInterval time.Duration
}

// flushSize is how much is gathered before it is written at once (Envoy's
// MIN_FLUSH_SIZE); maxPending is how much may wait for a slow file.
const (
	flushSize  = 64 << 10
	maxPending = 4 << 20
)

// NewFiles makes an empty set.
func NewFiles(o FilesOptions) *Files {
	if o.FlushInterval <= 0 {
		o.FlushInterval = 10 * time.Second
	}
	return &Files{opts: o, files: map[string]*file{}}
}

// file is one open file.
type file struct {
	path    string
	wake    chan struct{} // cap 1: enough is gathered
	dropped atomic.Uint64

	mu  sync.Mutex
	buf []byte // guarded by mu

	writing sync.Mutex
	f       *os.File // guarded by writing
}

func (fs *Files) open(path string) (*file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.files[path]; f != nil {
		return f, nil
	}
	f := &file{path: path, wake: make(chan struct{}, 1)}
	if err := f.reopen(); err != nil {
		return nil, err
	}
	fs.files[path] = f
	return f, nil
}

// reopen opens the path anew; the streams stay.
func (f *file) reopen() error {
	f.writing.Lock()
	defer f.writing.Unlock()
	var next *os.File
	switch f.path {
	case "/dev/stdout":
		next = os.Stdout
	case "/dev/stderr":
		next = os.Stderr
	default:
		var err error
		if next, err = os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return err
		}
		if f.f != nil {
			f.f.Close()
		}
	}
	f.f = next
	return nil
}

func (f *file) write(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.buf)+len(b) > maxPending {
		f.dropped.Add(1)
		return
	}
	f.buf = append(f.buf, b...)
	if len(f.buf) >= flushSize {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (f *file) flush() {
	f.mu.Lock()
	b := f.buf
	f.buf = nil
	f.mu.Unlock()
	if len(b) == 0 {
		return
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	if _, err := f.f.Write(b); err != nil {
		f.dropped.Add(1)
	}
}

// Run writes what is gathered until ctx ends, and the rest then.
func (fs *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(fs.opts.FlushInterval)
	defer tick.Stop()
	look := time.NewTicker(min(fs.opts.FlushInterval, time.Second))
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			fs.flush()
			return nil
		case <-tick.C:
			fs.flush()
		case <-look.C:
			for _, f := range fs.all() {
				select {
				case <-f.wake:
					f.flush()
				default:
				}
			}
		}
	}
}

func (fs *Files) all() []*file {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var out []*file
	for _, f := range fs.files {
		out = append(out, f)
	}
	return out
}

func (fs *Files) flush() {
	for _, f := range fs.all() {
		f.flush()
	}
}

// Dropped counts lines that were lost to a slow or full file.
func (fs *Files) Dropped() (n uint64) {
	for _, f := range fs.all() {
		n += f.dropped.Load()
	}
	return n
}

// Reopen opens every file anew, after it was moved away.
func (fs *Files) Reopen() error {
	var errs []error
	for _, f := range fs.all() {
		f.flush()
		errs = append(errs, f.reopen())
	}
	return errors.Join(errs...)
}

// Close writes what is left and closes the files.
func (fs *Files) Close() {
	for _, f := range fs.all() {
		f.flush()
		f.writing.Lock()
		if f.f != os.Stdout && f.f != os.Stderr {
			f.f.Close()
		}
		f.writing.Unlock()
	}
}
