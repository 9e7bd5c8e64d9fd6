// Package setfilterstate is envoy.filters.http.set_filter_state: it puts texts
// into the filter state of requests.
package setfilterstate

import (
	"errors"
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// New makes the filter of a *config.SetFilterState. A route's replaces it.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.SetFilterState)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of set_filter_state", cfg.Config)
	}
	build := func(c *config.SetFilterState) ([]value, error) { return compile(c, d) }
	values, err := build(own)
	if err != nil {
		return nil, err
	}
	routes := filter.NewOverrides(build)
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &setter{s: s, own: values, routes: routes}
	}), routes.Check), nil
}

// value is a compiled config.FilterStateValue.
type value struct {
	key       string
	text      func(*flow.Info) string
	readOnly  bool
	skipEmpty bool
}

func compile(cfg *config.SetFilterState, d filter.Deps) ([]value, error) {
	var out []value
	var errs []error
	for i, v := range cfg.OnRequest {
		text, err := d.Format(v.Format, v.OmitEmpty)
		if err != nil {
			errs = append(errs, fmt.Errorf("on_request_headers[%d]: format_string: %w", i, err))
		}
		if v.Key == "" {
			errs = append(errs, fmt.Errorf("on_request_headers[%d]: object_key is empty", i))
		}
		out = append(out, value{v.Key, text, v.ReadOnly, v.SkipIfEmpty})
	}
	return out, errors.Join(errs...)
}

// setter is the filter of one request.
type setter struct {
	filter.Pass
	s      filter.Stream
	own    []value
	routes *filter.Overrides[config.SetFilterState, []value]
}

// RequestHead sets the values. What is read-only is set once: the value that is
// there stays.
func (f *setter) RequestHead(*message.Head, bool) filter.Action {
	values := f.own
	if o := f.s.Override(); o != nil && o.Config != nil {
		var err error
		if values, err = f.routes.Of(o); err != nil {
			return filter.Misconfigured(f.s, err)
		}
	}
	info := f.s.Info()
	for _, v := range values {
		text := v.text(info)
		if text == "" && v.skipEmpty {
			continue
		}
		if _, there := info.FilterState[v.key]; there && v.readOnly {
			continue
		}
		info.SetState(v.key, text)
	}
	return filter.Continue
}
