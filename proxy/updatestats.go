package proxy

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/cespare/xxhash/v2"

	"outrider/certs"
	"outrider/proxy/stats"
)

// updateStats are those of one subscription (Envoy: listener_manager.lds.*,
// cluster_manager.cds.*, sds.<name>.*).
type updateStats struct {
	attempt, success, failure, rejected *stats.Counter
	version                             *stats.Gauge
	versionText                         *stats.TextReadout
	updateTime                          *stats.Gauge // milliseconds since 1970
}

func newUpdateStats(s *stats.Scope) updateStats {
	return updateStats{
		attempt: s.Counter("update_attempt"), success: s.Counter("update_success"),
		failure: s.Counter("update_failure"), rejected: s.Counter("update_rejected"),
		version: s.Gauge("version"), versionText: s.Text("version_text"), updateTime: s.Gauge("update_time"),
	}
}

// took counts an update that is in use.
func (u updateStats) took(version string) {
	u.attempt.Inc()
	u.success.Inc()
	u.show(version, time.Now())
}

func (u updateStats) show(version string, when time.Time) {
	u.version.SetUnsigned(xxhash.Sum64String(version))
	u.versionText.Set(version)
	u.updateTime.Set(when.UnixMilli())
}

// refused counts an update that is not: it could not be read, or what it says
// is wrong.
func (u updateStats) refused(err error) {
	u.attempt.Inc()
	if unreadable := (*fs.PathError)(nil); errors.As(err, &unreadable) {
		u.failure.Inc()
	} else {
		u.rejected.Inc()
	}
}

// updateStats are those of the file of CDS or LDS; nil for any other.
func (d *discovery) updateStats(path string) *updateStats {
	boot, lm := d.server.boot, &d.server.stats.lm
	switch {
	case boot.LDS != nil && boot.LDS.Path == path:
		return &lm.lds
	case boot.CDS != nil && boot.CDS.Path == path:
		return &lm.cds
	}
	return nil
}

// secretTotals are what of the handles' counts is in the registry already: a
// reset of the counters must not bring it back.
type secretTotals struct {
	mu     sync.Mutex
	counts map[weak.Pointer[certs.Handle]]certs.HandleStats // guarded by mu; does not keep them
	names  map[string]bool                                  // guarded by mu; whose metrics there are
}

// prune forgets the handles that are gone, and returns the names that have none
// any more.
func (s *secretTotals) prune(now []*certs.Handle) (gone []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.counts, func(h weak.Pointer[certs.Handle], _ certs.HandleStats) bool { return h.Value() == nil })
	before := s.names
	s.names = map[string]bool{}
	for _, h := range now {
		s.names[h.Ref().Name] = true
	}
	for name := range before {
		if !s.names[name] {
			gone = append(gone, name)
		}
	}
	return gone
}

// growth is now less what was there at the last call.
func (s *secretTotals) growth(h *certs.Handle, now certs.HandleStats) certs.HandleStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[weak.Pointer[certs.Handle]]certs.HandleStats{}
	}
	key := weak.Make(h)
	before := s.counts[key]
	s.counts[key] = now
	return certs.HandleStats{
		Attempts: now.Attempts - before.Attempts, Successes: now.Successes - before.Successes,
		Failures: now.Failures - before.Failures, Rejected: now.Rejected - before.Rejected,
		TimedOut: now.TimedOut && !before.TimedOut,
	}
}

func (s *Server) sdsScope(name string) *stats.Scope {
	return s.registry.Scope("sds").Tagged("envoy_xds_resource_name", name)
}

// secretStats are sds.<name>.*, and what is of certificates.
func (s *Server) secretStats() {
	handles := s.secrets.Handles()
	for _, name := range s.stats.secrets.prune(handles) {
		s.sdsScope(name).Remove()
		s.certScope(name).Remove()
	}
	for _, h := range handles {
		name := h.Ref().Name
		if name == "" {
			continue
		}
		secret, err := h.Current()
		if h.Ref().Source != nil {
			scope := s.sdsScope(name)
			u, n := newUpdateStats(scope), s.stats.secrets.growth(h, h.Stats())
			u.attempt.Add(n.Attempts)
			u.success.Add(n.Successes)
			u.failure.Add(n.Failures)
			u.rejected.Add(n.Rejected)
			timeouts := scope.Counter("init_fetch_timeout")
			if n.TimedOut {
				timeouts.Inc()
			}
			if err == nil {
				version, _, _ := strings.Cut(secret.Version, " ") // version_info, then a digest
				u.show(version, secret.Updated)
			}
		}
	}
	s.certStats()
}
