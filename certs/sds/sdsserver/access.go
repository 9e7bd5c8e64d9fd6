package sdsserver

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// Access says who may connect to the socket. Whoever can gets the workload's
// private key.
type Access struct {
	// Mode is the socket's mode; 0 is DefaultMode.
	Mode fs.FileMode
	// Owner and Group are names or numbers; "" leaves the process's own.
	// Another owner needs CAP_CHOWN; a group must be one of the process's.
	Owner, Group string
}

// DefaultMode is the socket's mode: the proxy runs as the agent's user or in
// its group.
const DefaultMode fs.FileMode = 0o660

// apply gives a socket that nobody can reach yet its owner and its mode.
func (a Access) apply(path string) error {
	owner, err := number(a.Owner, userID)
	if err != nil {
		return fmt.Errorf("owner %q: %w", a.Owner, err)
	}
	group, err := number(a.Group, groupID)
	if err != nil {
		return fmt.Errorf("group %q: %w", a.Group, err)
	}
	if err := os.Lchown(path, owner, group); err != nil {
		return fmt.Errorf("owner %q, group %q: %w", a.Owner, a.Group, err)
	}
	mode := a.Mode
	if mode == 0 {
		mode = DefaultMode
	}
	return os.Chmod(path, mode)
}

// number is what name stands for; -1, which chown(2) passes over, for "".
func number(name string, find func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	found, err := find(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found)
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}
