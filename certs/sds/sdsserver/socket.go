package sdsserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxName is the longest name that a unix socket can have (unix(7): sun_path
// has 108 bytes with its final zero).
const maxName = 107

// privateDir is where the socket is made; MkdirTemp replaces the * by 10 digits
// at most.
const privateDir = ".sds-*"

// Listen opens a unix socket. Its mode and owner are in force before anyone can
// connect. Its directory is made if there is none. A socket that nobody answers
// on is replaced; one that somebody answers on is not, for two agents must not
// take each other's place. Closing the listener removes the socket if it is
// still ours.
func Listen(path string, access Access) (net.Listener, error) {
	dir := filepath.Dir(path)
	longest := len(filepath.Join(dir, privateDir+"123456789", "s"))
	if n := max(len(path), longest); n > maxName {
		return nil, fmt.Errorf("SDS socket %s: its name is %d bytes too long for a unix socket: use a path that is relative to the working directory", path, n-maxName)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("SDS socket: %w", err)
	}
	ln, err := listen(dir, path, access)
	if err != nil {
		return nil, fmt.Errorf("SDS socket %s: %w", path, err)
	}
	return ln, nil
}

// listen makes the socket where nobody else can look, and moves it into place
// when it is whole.
func listen(dir, path string, access Access) (net.Listener, error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := free(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(dir, privateDir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	s := &socket{UnixListener: ln, path: path}
	if err := s.publish(made, access); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return s, nil
}

// lock keeps other agents of this program from starting and stopping in dir
// meanwhile: between looking at a stale socket and removing it, it could have
// become another's. Each holds it for moments; a file system without such locks
// does without.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	return func() { f.Close() }, nil
}

// dialTime is how long another agent has to answer.
const dialTime = time.Second

var errInUse = errors.New("another agent serves there: stop it, or use its secrets")

// free makes sure that nobody serves on path, and removes what nobody uses.
func free(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file of that name, which is no socket")
	}
	c, err := net.DialTimeout("unix", path, dialTime)
	switch {
	case err == nil:
		c.Close()
		return errInUse
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("there is a socket, and who serves there cannot be told: %w", err)
}

// socket removes its name when it is closed.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo
	once sync.Once
	err  error
}

// publish gives the socket its mode, its owner and its name. It takes nobody's
// place: one that has come up since we looked keeps the name, where the file
// system has hard links to tell.
func (s *socket) publish(made string, access Access) error {
	if err := access.apply(made); err != nil {
		return err
	}
	var err error
	if s.file, err = os.Lstat(made); err != nil {
		return err
	}
	err = os.Link(made, s.path)
	if errors.Is(err, fs.ErrExist) {
		return errInUse
	}
	if err != nil {
		return os.Rename(made, s.path)
	}
	return nil
}

// Addr is the socket by the name that clients use.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close stops listening, and removes the socket unless another took its place.
func (s *socket) Close() error {
	s.once.Do(func() {
		if unlock, err := lock(filepath.Dir(s.path)); err == nil {
			defer unlock()
		}
		s.err = s.UnixListener.Close()
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.file) {
			s.err = errors.Join(s.err, os.Remove(s.path))
		}
	})
	return s.err
}
