package hcm

import (
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
)

// checkRoutes refuses what a route configuration has for filters that they
// cannot use.
func (m *Manager) checkRoutes(cfg *config.RouteConfig) error {
	byName := map[string]filter.Factory{}
	for _, list := range m.upgrades {
		for _, f := range list {
			byName[f.name] = f.Factory
		}
	}
	for _, f := range m.filters {
		byName[f.name] = f.Factory
	}
	return filter.CheckRoutes(cfg, byName)
}
