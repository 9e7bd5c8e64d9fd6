package filter

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"outrider/proxy/config"
)

// Checker is a Factory that can say whether it could use what a route has for
// it, before a request meets it.
type Checker interface {
	Check(o *config.FilterOverride) error
}

// Checked is f with check as its Check.
func Checked(f Factory, check func(o *config.FilterOverride) error) Factory {
	return checked{f, check}
}

type checked struct {
	Factory
	check func(o *config.FilterOverride) error
}

func (c checked) Check(o *config.FilterOverride) error { return c.check(o) }

// CheckRoutes checks what a route configuration has for the filters, which are
// by their names in the filter list. Each mistake is in the error, with its
// path.
func CheckRoutes(cfg *config.RouteConfig, filters map[string]Factory) error {
	c := checking{filters: filters}
	c.level("", cfg.PerFilter)
	for _, v := range cfg.VirtualHosts {
		host := fmt.Sprintf("virtual_hosts[%q].", v.Name)
		c.level(host, v.PerFilter)
		for i, r := range v.Routes {
			route := fmt.Sprintf("%sroutes[%d].", host, i)
			c.level(route, r.PerFilter)
			if r.Action == nil || r.Action.Weighted == nil {
				continue
			}
			for j, w := range r.Action.Weighted.Clusters {
				c.level(fmt.Sprintf("%sroute.weighted_clusters.clusters[%d].", route, j), w.PerFilter)
			}
		}
	}
	return errors.Join(c.errs...)
}

type checking struct {
	filters map[string]Factory
	errs    []error
}

func (c *checking) level(place string, overrides map[string]*config.FilterOverride) {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		f, ok := c.filters[name].(Checker)
		if !ok {
			continue
		}
		if err := f.Check(overrides[name]); err != nil {
			c.errs = append(c.errs, fmt.Errorf("%styped_per_filter_config[%q]: %w", place, name, err))
		}
	}
}
