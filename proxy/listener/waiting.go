package listener

import (
	"container/list"
	"errors"
	"net"
	"sync"
	"time"
)

// Waiting bounds how many connections are in the listener filters at once, for
// those have cost us a descriptor and proved nothing yet. When it is full the
// oldest is shed. Envoy has no such bound.
type Waiting struct {
	limit int

	mu   sync.Mutex
	open list.List // guarded by mu; of *waiter, oldest first
}

type waiter struct {
	conn net.Conn
	shed bool
}

// DefaultWaiting is how many connections may be waiting.
const DefaultWaiting = 8192

// ErrShed is why a connection ended that had waited longest when there were
// too many.
var ErrShed = errors.New("too many connections have not sent enough to choose a filter chain, and this one waited longest")

// NewWaiting allows limit connections at once.
func NewWaiting(limit int) *Waiting { return &Waiting{limit: limit} }

// Enter counts c in. leave counts it out, and reports whether it was shed.
func (w *Waiting) Enter(c net.Conn) (leave func() (shed bool)) {
	one := &waiter{conn: c}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open.Len() >= w.limit {
		oldest := w.open.Remove(w.open.Front()).(*waiter)
		oldest.shed = true
		oldest.conn.SetReadDeadline(time.Unix(1, 0))
	}
	place := w.open.PushBack(one)
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !one.shed {
			w.open.Remove(place)
		}
		return one.shed
	}
}
