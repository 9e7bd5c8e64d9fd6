package cluster

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func sockopt(t *testing.T, c *net.TCPConn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var opErr error
	if err := raw.Control(func(fd uintptr) { got, opErr = unix.GetsockoptInt(int(fd), level, name) }); err != nil {
		t.Fatal(err)
	}
	if opErr != nil {
		t.Fatal(opErr)
	}
	return got
}
