package proxy

import (
	"maps"
	"sync"
	"time"
	"weak"

	"outrider/certs"
	"outrider/proxy/stats"
)

// certTotals are what of the secrets' counts is in the registry already: a
// reset of the counters must not bring it back.
type certTotals struct {
	mu     sync.Mutex
	counts map[countKey]uint64 // guarded by mu
}

// countKey does not keep the handle.
type countKey struct {
	of   weak.Pointer[certs.Handle]
	what string
}

// prune forgets the handles that are gone.
func (t *certTotals) prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.counts, func(k countKey, _ uint64) bool { return k.of.Value() == nil })
}

// grow adds to c what n is more than at the last call.
func (t *certTotals) grow(c *stats.Counter, key countKey, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[countKey]uint64{}
	}
	c.Add(n - min(n, t.counts[key]))
	t.counts[key] = n
}

// certStats are outrider.cert.<name>.*, and Envoy's gauges of each listener and
// each cluster. Two secrets of one name count together, and of times the first
// is shown.
func (s *Server) certStats() {
	s.stats.certs.prune()
	times := map[string]map[string]time.Time{}
	for _, h := range s.secrets.Handles() {
		name := h.Ref().Name
		if name == "" {
			continue
		}
		if times[name] == nil {
			times[name] = map[string]time.Time{}
		}
		certTimes(times[name], h)
		s.certCounts(s.certScope(name), h)
	}
	for name, all := range times {
		for what, at := range all {
			s.certScope(name).Gauge(what).Set(at.Unix())
		}
	}
	for _, l := range s.listeners.sorted() {
		var secrets []*certs.Handle
		for _, ch := range l.current().chains {
			if ch.tls != nil {
				secrets = append(secrets, ch.tls.Shown()...)
			}
		}
		stats.ShowExpiry(l.stats.scope, secrets)
	}
	for _, c := range s.clusters.All() {
		c.ShowExpiry()
	}
}

func (s *Server) certScope(name string) *stats.Scope {
	return s.registry.Scope("outrider").Scope("cert").Tagged("outrider_secret", name)
}

// certTimes adds the times of h; what is not known is not there.
func certTimes(times map[string]time.Time, h *certs.Handle) {
	show := func(name string, at time.Time) {
		if first, ok := times[name]; !at.IsZero() && (!ok || at.Before(first)) {
			times[name] = at
		}
	}
	show("next_rotation_seconds", h.Planned())
	if last, _ := h.Failures(); last != nil {
		show("last_failure_seconds", last.Time)
	}
	secret, err := h.Current()
	if err != nil {
		return
	}
	show("updated_seconds", secret.Updated)
	if k := secret.KeyPair; k != nil {
		show("not_after_seconds", k.TLS.Leaf.NotAfter)
		for _, ca := range k.Intermediates() {
			show("ca_not_after_seconds", ca.NotAfter)
		}
	}
	if v := secret.Validation; v != nil {
		for _, root := range v.AllRoots() {
			show("root_not_after_seconds", root.NotAfter)
		}
	}
}

func (s *Server) certCounts(scope *stats.Scope, h *certs.Handle) {
	totals := &s.stats.certs
	totals.grow(scope.Counter("attempts"), countKey{weak.Make(h), "attempts"}, h.SourceStats().Attempts)
	totals.grow(scope.Counter("rotations"), countKey{weak.Make(h), "rotations"}, h.Rotations())
	_, failures := h.Failures()
	for reason, n := range failures {
		totals.grow(scope.Valued("failures", "outrider_reason", reason), countKey{weak.Make(h), "failures." + reason}, n)
	}
}
