package proxy

import (
	"cmp"
	"maps"
	"slices"

	"outrider/proxy/admin"
	"outrider/proxy/xds"
)

// adminFileRoutes are the route configurations of files, by name.
func (d *discovery) adminFileRoutes() map[string]admin.Route {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]admin.Route{}
	for rds, r := range d.fileRouted {
		out[rds.Name] = admin.Route{Name: rds.Name, Dynamic: true, Updated: r.updated, Source: r.config.Source}
	}
	return out
}

// adminRoutes are the route configurations: inline ones of the listeners in use,
// then those of files and streams by name.
func (s *Server) adminRoutes() []admin.Route {
	var out []admin.Route
	for _, l := range s.listeners.sorted() {
		snap := l.current()
		for _, fc := range snap.configured() {
			for _, f := range fc.Filters {
				if f.HTTP != nil && f.HTTP.Routes != nil {
					out = append(out, admin.Route{Name: f.HTTP.Routes.Name, Updated: snap.updated, Source: f.HTTP.Routes.Source})
				}
			}
		}
	}
	dynamic := s.discovery.adminFileRoutes()
	for _, one := range s.discovery.streams.all() {
		for name, v := range one.routes.Names() {
			r := admin.Route{Name: name, Dynamic: true, Version: v.Info, Updated: v.Updated}
			if v.Value != nil {
				r.Source = v.Value.Source
			}
			dynamic[name] = r
		}
		for _, refusal := range one.client.Refusals(xds.RouteType) {
			r := dynamic[refusal.Name]
			r.Name, r.Dynamic, r.Refused = cmp.Or(r.Name, refusal.Name), true, refusedFacts(refusal)
			dynamic[refusal.Name] = r
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dynamic)) {
		if r := dynamic[name]; r.Source != nil || r.Refused != nil {
			out = append(out, r)
		}
	}
	return out
}
