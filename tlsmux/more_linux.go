package tlsmux

import "golang.org/x/sys/unix"

// moreComes has the kernel wait for what follows before it sends a segment that
// is not full.
const moreComes = unix.MSG_MORE
