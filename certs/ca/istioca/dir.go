package istioca

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a state directory. All are for their owner only.
const (
	stateFile = "state.json"  // all that must not be lost
	lockFile  = "lock"        // held while state.json or the log is written
	serveFile = "serve.lock"  // held as long as a server runs
	logFile   = "issued.log"  // what was issued, a JSON object a line
	tempFile  = "state.json~" // the next state.json, until it is whole
)

// dir is a state directory. Several processes may use one: each update is
// made under a lock from what the file says then, and the file is replaced
// whole, so that a crash leaves the old or the new one.
type dir struct {
	path string

	mu    sync.Mutex // serializes our own updates, ahead of the file lock
	cache struct {
		sync.Mutex
		state *State      // guarded by the mutex; what was read last
		info  fs.FileInfo // guarded by the mutex; of the file then
	}
}

// ErrNoState says that a directory holds no authority.
var ErrNoState = errors.New("there is no authority in it")

// load is the newest state. It reads the file only if that seems to have
// changed, by its number, size and time. That can be mistaken where two changes
// fall into one tick of the file system's clock, so an update reads anew; for
// issuing, an older state does no harm (see Authority.promise).
func (d *dir) load() (*State, error) { return d.read(true) }

func (d *dir) read(cached bool) (*State, error) {
	path := filepath.Join(d.path, stateFile)
	d.cache.Lock()
	defer d.cache.Unlock()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state directory %s: %w", d.path, ErrNoState)
	}
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if cached && d.cache.state != nil && sameFile(info, d.cache.info) {
		return d.cache.state, nil
	}
	if err := keepPrivate(path, info); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s, err := parseState(text)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", path, err)
	}
	d.cache.state, d.cache.info = s, info
	return s, nil
}

// keepPrivate refuses a state that anybody may read. One that its group may
// read becomes its owner's again: Kubernetes opens the files of a volume to the
// pod's fsGroup at each mount.
func keepPrivate(path string, info fs.FileInfo) error {
	mode := info.Mode().Perm()
	if mode&0o007 != 0 {
		return fmt.Errorf("state %s: its mode is %#o, and it holds private keys: only its owner may read it (0600)", path, mode)
	}
	if mode&0o070 != 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			return fmt.Errorf("state: its mode is %#o: %w", mode, err)
		}
	}
	return nil
}

// sameFile says that a file was not replaced, nor written in place.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// update replaces the state by what change makes of it, under the lock, and
// returns the state that stands then. A change that returns its argument
// writes nothing. Before the first state change gets nil.
func (d *dir) update(change func(*State) (*State, error)) (*State, error) {
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := d.read(false)
	if err != nil && !errors.Is(err, ErrNoState) {
		return nil, err
	}
	fresh, err := change(old)
	if err != nil || fresh == old {
		return old, err
	}
	if err := d.write(fresh); err != nil {
		return nil, fmt.Errorf("write state: %w", err)
	}
	return d.read(false)
}

// write puts a state in the file's place. What comes back from the disk after
// it has returned is that state.
func (d *dir) write(s *State) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if _, err := parseState(text); err != nil {
		return fmt.Errorf("it would not be readable: %w", err)
	}
	return replaceFile(filepath.Join(d.path, stateFile), filepath.Join(d.path, tempFile), append(text, '\n'))
}

// replaceFile writes path by way of temp, with mode 0600, and waits until it
// is on the disk.
func replaceFile(path, temp string, text []byte) error {
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// lock waits for the directory's lock. The system frees it when the process
// ends, however that is.
func (d *dir) lock() (unlock func(), err error) {
	d.mu.Lock()
	f, err := openLock(filepath.Join(d.path, lockFile))
	if err == nil {
		err = flock(f, unix.LOCK_EX)
	}
	if err != nil {
		d.mu.Unlock()
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	return func() {
		f.Close()
		d.mu.Unlock()
	}, nil
}

// BusyError says that another process serves from the same state.
type BusyError struct {
	Dir    string
	Holder string // what it wrote into the lock: its process ID and the time
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("state directory %s is served by another process (%s)", e.Dir, e.Holder)
}

// lockServe takes the directory for one server, or returns a *BusyError.
func (d *dir) lockServe() (unlock func(), err error) {
	f, err := openLock(filepath.Join(d.path, serveFile))
	if err != nil {
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 100)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &BusyError{Dir: d.path, Holder: string(holder[:n])}
		}
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	text := fmt.Sprintf("process %d, since %s", os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the state: %w", err)
	}
	return func() { f.Close() }, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}

// flock takes a lock on an open file, and goes on after a signal.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
