package relay

import (
	"sync/atomic"
	"time"
)

// Options are how one relay runs; the zero value relays with no limits.
type Options struct {
	// IdleTimeout ends the relay when neither side sent anything for that
	// long; 0 is never.
	IdleTimeout time.Duration
	// HalfCloseTimeout ends it when one side has finished and the other
	// neither sends nor finishes for that long; 0 is never.
	HalfCloseTimeout time.Duration
	// DownstreamFirst and UpstreamFirst, if not nil, run at the start of
	// their direction, in its goroutine, before the first byte is relayed:
	// they may read a prologue from that side. What they return is passed on
	// before anything else.
	DownstreamFirst, UpstreamFirst func(Conn) ([]byte, error)
	// Lot takes the relay while nothing moves; nil for none.
	Lot *Lot
	// Counts of application bytes; nil counts nothing.
	FromDownstream, ToDownstream, FromUpstream, ToUpstream *atomic.Uint64
}

// Cause says why a relay ended.
type Cause int

const (
	// Finished: both sides ended their direction.
	Finished Cause = iota
	// DownstreamReset and UpstreamReset: that side failed.
	DownstreamReset
	UpstreamReset
	// Idle: IdleTimeout or HalfCloseTimeout passed.
	Idle
	// Stopped: the context ended.
	Stopped
)

// Result is how a relay ended. FirstEOF tells who ended its direction first:
// 'd'ownstream, 'u'pstream, or 0 for neither.
type Result struct {
	Cause    Cause
	FirstEOF byte
	Err      error // of a reset; nil else
}
