package certs

import (
	"fmt"
	"sync"
	"time"
)

// Handle is one living secret: its current version, or why there is none.
// All methods may be called by many goroutines.
type Handle struct{ *living }

// living is what Handles of one secret share: that of those who use it, and that
// of its feed, which does not count as a user.
type living struct {
	ref Ref

	mu       sync.Mutex
	current  *Secret       // guarded by mu
	revision uint64        // guarded by mu; counts publications
	changed  chan struct{} // guarded by mu; closed at the next publication
	initial  chan struct{} // closed when the first publication is there, or not waited for any more
	gaveUp   bool          // guarded by mu; initial is closed
	stats    HandleStats   // guarded by mu
	since    time.Time     // guarded by mu; when the wait began
	lastErr  error         // guarded by mu; the last refused update or failed fetch
	lastFail time.Time     // guarded by mu
	next     time.Time     // guarded by mu; when the source means to try again
	history  failures      // guarded by mu
	source   *Handle       // guarded by mu; where this one's secret comes from, nil for a source of its own
}

// NewHandle makes the Handle for ref; an inline secret is current at once.
func NewHandle(ref Ref) *Handle {
	h := &Handle{&living{ref: ref, changed: make(chan struct{}), initial: make(chan struct{}), since: time.Now()}}
	if ref.Inline != nil {
		h.current, h.revision = ref.Inline, 1
		h.giveUp()
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
	err, when, source := h.lastErr, h.lastFail, h.source
	h.mu.Unlock()
	if err == nil && source != nil {
		return source.LastFailure()
	}
	return err, when
}

// Follow says that h's secret is taken from source in this process: then its
// plan, its failures and its counts are what is to be seen of h.
func (h *Handle) Follow(source *Handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.source = source
}

// Plan records when the secret's source means to renew it, or to try again
// after a failure; the zero time says that it waits to be told.
func (h *Handle) Plan(next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = next
}

// Planned is when the secret's source means to renew it or to try again; zero
// if it waits to be told, as SDS and files do.
func (h *Handle) Planned() time.Time {
	h.mu.Lock()
	next, source := h.next, h.source
	h.mu.Unlock()
	if next.IsZero() && source != nil {
		return source.Planned()
	}
	return next
}

// Publish makes s current. A secret whose Version is the current one's is not
// a change.
func (h *Handle) Publish(s *Secret) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastErr = nil
	h.stats.Successes++
	if h.current != nil && h.current.Version == s.Version {
		return
	}
	h.current = s
	h.revision++
	close(h.changed)
	h.changed = make(chan struct{})
	h.openInitial()
}

// Initial is closed when the secret is there for the first time, or when its
// initial_fetch_timeout has passed.
func (h *Handle) Initial() <-chan struct{} { return h.initial }

// giveUp ends the wait for the first version.
func (h *Handle) giveUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.TimedOut = h.current == nil
	h.openInitial()
}

// openInitial closes initial once; mu is held.
func (h *Handle) openInitial() {
	if !h.gaveUp {
		h.gaveUp = true
		close(h.initial)
	}
}

// HandleStats count a handle's updates (Envoy: sds.<name>.*).
type HandleStats struct {
	// Attempts are requests or reads, Successes versions that were taken (the
	// same one again too), Failures fetches without an answer, Rejected
	// versions that were refused.
	Attempts, Successes, Failures, Rejected uint64
	// TimedOut says that initial_fetch_timeout passed with no version.
	TimedOut bool
}

// Stats are the counts so far.
func (h *Handle) Stats() HandleStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// SourceStats are the counts of who gets the secret: see Follow.
func (h *Handle) SourceStats() HandleStats {
	h.mu.Lock()
	source := h.source
	h.mu.Unlock()
	if source != nil {
		return source.Stats()
	}
	return h.Stats()
}

// Rotations counts the versions that have replaced another one.
func (h *Handle) Rotations() uint64 { return max(h.Revision(), 1) - 1 }

// Attempt counts one request or read.
func (h *Handle) Attempt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Attempts++
}

// Reject records that a version was refused. What is current stays current.
func (h *Handle) Reject(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Rejected++
	h.lastErr, h.lastFail = err, time.Now()
	h.history.add(reasonRejected, err, h.lastFail)
}

// Fail records that a fetch failed. What is current stays current.
func (h *Handle) Fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Failures++
	h.lastErr, h.lastFail = err, time.Now()
	h.history.add(FailureReason(err), err, h.lastFail)
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
