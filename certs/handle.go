package certs

import (
	"fmt"
	"sync"
	"time"
)

// Handle is one living secret: its current version, or why there is none.
// All methods may be called by many goroutines.
type Handle struct {
	ref Ref

	mu       sync.Mutex
	current  *Secret       // guarded by mu
	revision uint64        // guarded by mu; counts publications
	changed  chan struct{} // guarded by mu; closed at the next publication
	since    time.Time     // guarded by mu; when the wait began
	lastErr  error         // guarded by mu; the last refused update or failed fetch
	lastFail time.Time     // guarded by mu
}

// NewHandle makes the Handle for ref; an inline secret is current at once.
func NewHandle(ref Ref) *Handle {
	h := &Handle{ref: ref, changed: make(chan struct{}), since: time.Now()}
	if ref.Inline != nil {
		h.current, h.revision = ref.Inline, 1
	}
	return h
}

// Ref is what the handle was made for.
func (h *Handle) Ref() Ref { return h.ref }

// Current is the secret to use now, or a *NotReadyError. It does not block.
func (h *Handle) Current() (*Secret, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return nil, &NotReadyError{Name: h.ref.Name, Since: h.since, LastErr: h.lastErr}
	}
	return h.current, nil
}

// Revision counts publications: 0 means none yet. A cache of what was made
// from the secret is good as long as Revision stays.
func (h *Handle) Revision() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// Changed is closed at the next publication.
func (h *Handle) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// LastFailure is the last refused update or failed fetch since the last
// publication, and when; nil if none.
func (h *Handle) LastFailure() (error, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lastErr, h.lastFail
}

// Publish makes s current. A secret whose Version is the current one's is not
// a change.
func (h *Handle) Publish(s *Secret) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastErr = nil
	if h.current != nil && h.current.Version == s.Version {
		return
	}
	h.current = s
	h.revision++
	close(h.changed)
	h.changed = make(chan struct{})
}

// Fail records that an update was refused or a fetch failed. What is current
// stays current.
func (h *Handle) Fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastErr, h.lastFail = err, time.Now()
}

// NotReadyError says that a secret has never arrived.
type NotReadyError struct {
	Name    string
	Since   time.Time
	LastErr error // why the last try failed; nil if none did
}

func (e *NotReadyError) Error() string {
	s := fmt.Sprintf("secret %q is not supplied by SDS, waiting since %s", e.Name, e.Since.UTC().Format(time.RFC3339))
	if e.LastErr != nil {
		s += ": " + e.LastErr.Error()
	}
	return s
}

func (e *NotReadyError) Unwrap() error { return e.LastErr }
