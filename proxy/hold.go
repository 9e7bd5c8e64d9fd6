package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outrider/certs"
	"outrider/proxy/flow"
)

// When a proxy starts beside its application, that calls before there are
// certificates and endpoints. Refused calls are lost; held ones are only late.
// docs/lifecycle.md.

// errHoldOver is why a connection is not held any longer.
var errHoldOver = errors.New("the hold is over")

// holdPoll is how often it is looked whether a cluster has come: there is
// nothing to wait on for one that has never been.
const holdPoll = 50 * time.Millisecond

// hold waits until everything that a connection of ch needs is there for the
// first time: the secrets of its TLS, and the clusters that it may go to, with
// theirs. Options.Hold after the server's start the wait ends, and with it the
// connection; those that come later are not held.
func (l *liveListener) hold(ch *liveChain, info *flow.Info) error {
	s := l.server
	until := s.start.Add(s.opts.Hold)
	if s.opts.Hold <= 0 || !time.Now().Before(until) {
		return nil
	}
	ctx, cancel := context.WithDeadlineCause(ch.ctx, until, errHoldOver)
	defer cancel()
	begin := time.Now()
	missing := s.waitFor(ctx, ch, info)
	switch {
	case missing == nil:
		return nil
	case !errors.Is(context.Cause(ctx), errHoldOver):
		return flow.End(flow.StageHold, 0, context.Cause(ctx))
	}
	s.stats.holdExpired.Inc()
	info.TerminationDetails = "hold_expired"
	return flow.End(flow.StageHold, 0, fmt.Errorf("held for %s, until %s after the start: %w",
		time.Since(begin).Round(time.Millisecond), s.opts.Hold, missing))
}

// waitFor returns nil when all is there, and what is missing if ctx ends.
func (s *Server) waitFor(ctx context.Context, ch *liveChain, info *flow.Info) error {
	if ch.tls != nil && ch.tls.Ready() != nil {
		s.stats.held.Inc()
		if err := waitSecrets(ctx, ch.tls.Secrets()); err != nil {
			return err
		}
	}
	for _, name := range ch.filters.Clusters(info) {
		if err := s.waitCluster(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// waitSecrets returns nil when every secret is there; if ctx ends, the
// *certs.NotReadyError of the first that is not.
func waitSecrets(ctx context.Context, handles []*certs.Handle) error {
	for _, h := range handles {
		for {
			changed := h.Changed() // before it is looked: no publication is missed
			_, missing := h.Current()
			if missing == nil {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return missing
			}
		}
	}
	return nil
}

// waitCluster returns nil when a cluster has its first endpoints and secrets.
func (s *Server) waitCluster(ctx context.Context, name string) error {
	c := s.clusters.Get(name)
	if c != nil && c.Ready() {
		return nil
	}
	s.stats.held.Inc()
	tick := time.NewTicker(holdPoll)
	defer tick.Stop()
	for c == nil {
		select {
		case <-tick.C:
			c = s.clusters.Get(name)
		case <-ctx.Done():
			return fmt.Errorf("there is no cluster %q", name)
		}
	}
	select {
	case <-c.Warm():
	case <-ctx.Done():
		return fmt.Errorf("cluster %q: its endpoints are not known yet", name)
	}
	if err := waitSecrets(ctx, c.Secrets()); err != nil {
		return fmt.Errorf("cluster %q: %w", name, err)
	}
	return nil
}
