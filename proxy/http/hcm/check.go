package hcm

import (
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
)

// failing reports whether connections are to end with their next answer,
// because health checks are to fail.
func (m *Manager) failing() bool {
	l := m.deps.Listener
	return m.deps.Failing != nil && m.deps.Failing() && (l == nil || !l.DrainModifyOnly)
}

// checkRoutes refuses what a route configuration has for filters that they
// cannot use.
func (m *Manager) checkRoutes(cfg *config.RouteConfig) error {
	byName := map[string]filter.Factory{}
	for _, list := range m.upgrades {
		for _, f := range list {
			byName[f.name] = f.current()
		}
	}
	for _, f := range m.filters {
		byName[f.name] = f.current()
	}
	return filter.CheckRoutes(cfg, byName)
}
