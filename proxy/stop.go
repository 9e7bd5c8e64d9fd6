package proxy

import (
	"context"
	"errors"
	"time"

	"outrider/proxy/config"
)

// The server ends in stages (docs/lifecycle.md):
//
//	outbound goes on   listeners of the direction OUTBOUND still accept, all
//	                   others have stopped: the application needs its calls to
//	                   finish what it was asked. Not if there is no such listener.
//	draining           nothing accepts; the open connections go on.
//	the end            what is left is cut.
//
// A stage ends when no connection is open, or when the drain time is over, or
// when it is skipped.

// Why a stage ends.
var (
	errDrainTime = errors.New("the drain time is over")
	errIdle      = errors.New("no connection is open")
	errSkipped   = errors.New("the stage was skipped")
)

// drainAndStop ends the server in order.
func (s *Server) drainAndStop() {
	s.draining.Store(true)
	began := time.Now()
	over, cancel := context.WithTimeoutCause(s.serving, s.opts.DrainTime, errDrainTime)
	defer cancel()
	outbound := func(c *config.Listener) bool { return c.Direction == config.Outbound }
	goesOn := s.listeners.accepts(outbound)
	s.log.Info("draining", "connections", s.stats.connections.Value(), "drain_time", s.opts.DrainTime, "outbound_goes_on", goesOn)
	s.listeners.stop(func(c *config.Listener) bool { return !goesOn || !outbound(c) })
	if goesOn {
		least := s.opts.MinDrainTime
		if s.opts.DrainFully {
			least = s.opts.DrainTime
		}
		s.stage(over, "outbound goes on", began.Add(least))
		s.listeners.stop(func(*config.Listener) bool { return true })
	}
	s.stage(over, "draining", began)
	s.stopAccept(errDrained)
	s.stopServ(errDrained)
}

// stage returns when no connection is open, not before a time, or when over
// ends, or when it is skipped.
func (s *Server) stage(over context.Context, name string, notBefore time.Time) {
	reason := errIdle
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for reason == errIdle && (s.stats.connections.Value() > 0 || time.Now().Before(notBefore)) {
		select {
		case <-tick.C:
		case <-over.Done():
			reason = context.Cause(over)
		case <-s.skip:
			reason = errSkipped
		}
	}
	s.log.Info("stage of the end is over", "stage", name, "connections", s.stats.connections.Value(), "reason", reason)
}

// Skip ends the current stage of the end, or the first that will come.
func (s *Server) Skip() {
	select {
	case s.skip <- struct{}{}:
	default: // a skip is on its way already
	}
}
