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

// DefaultMode is the socket's mode: the proxy runs as the agent's user or in
// its group. Who can connect gets the workload's private key.
const DefaultMode fs.FileMode = 0o660

// maxPath is the longest name that a unix socket can have (unix(7): sun_path
// has 108 bytes with its final zero), less what the name has while it is made.
const maxPath = 107 - len("/.sds-1234567890")

// Listen opens a unix socket with that mode; 0 is DefaultMode. The mode is in
// force before anyone can connect. Its directory is made if there is none. A
// socket that nobody answers on is replaced; one that somebody answers on is
// not, for two agents must not take each other's place. Closing the listener
// removes the socket if it is still ours.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	if mode == 0 {
		mode = DefaultMode
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("SDS socket %s: its name has %d bytes, and can have %d: use a path that is relative to the working directory", path, len(path), maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("SDS socket: %w", err)
	}
	if err := free(path); err != nil {
		return nil, fmt.Errorf("SDS socket %s: %w", path, err)
	}
	// Made where nobody else can look, and moved into place when it is whole.
	private, err := os.MkdirTemp(filepath.Dir(path), ".sds-")
	if err != nil {
		return nil, fmt.Errorf("SDS socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("SDS socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	s := &socket{UnixListener: ln, path: path}
	if err := s.publish(made, mode); err != nil {
		ln.Close()
		return nil, fmt.Errorf("SDS socket %s: %w", path, err)
	}
	return s, nil
}

// dialTime is how long another agent has to answer.
const dialTime = time.Second

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
		return errors.New("another agent serves there")
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

// publish gives the socket its mode and its name.
func (s *socket) publish(made string, mode fs.FileMode) error {
	if err := os.Chmod(made, mode); err != nil {
		return err
	}
	var err error
	if s.file, err = os.Lstat(made); err != nil {
		return err
	}
	return os.Rename(made, s.path)
}

// Addr is the socket by the name that clients use.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close stops listening, and removes the socket unless another took its place.
func (s *socket) Close() error {
	s.once.Do(func() {
		s.err = s.UnixListener.Close()
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.file) {
			s.err = errors.Join(s.err, os.Remove(s.path))
		}
	})
	return s.err
}
