// Package headermutation is envoy.filters.http.header_mutation: it adds and
// removes fields of heads and trailers, for all requests and by route.
package headermutation

import (
	"errors"
	"fmt"
	"slices"

	"outrider/proxy/config"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// New makes the filter of a *config.HeaderMutation.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.HeaderMutation)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of header_mutation", cfg.Config)
	}
	c := &changes{overrides: filter.NewOverrides(func(m *config.HeaderMutation) (*compiled, error) { return compile(m, d.Format) })}
	var err error
	if c.own, err = compile(own, d.Format); err != nil {
		return nil, err
	}
	c.mostSpecificLast = own.MostSpecificWins
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &mutator{s: s, c: c}
	}), c.overrides.Check), nil
}

// changes is what all requests share.
type changes struct {
	own              *compiled
	mostSpecificLast bool
	overrides        *filter.Overrides[config.HeaderMutation, *compiled]
}

// compiled is a config.HeaderMutation.
type compiled struct{ request, requestTrailers, response, responseTrailers edit.Mutations }

func compile(cfg *config.HeaderMutation, format edit.Formatter) (*compiled, error) {
	out := &compiled{}
	var errs []error
	for _, part := range []struct {
		name string
		list []config.HeaderMutate
		to   *edit.Mutations
	}{
		{"request_mutations", cfg.Request, &out.request},
		{"request_trailers_mutations", cfg.RequestTrailers, &out.requestTrailers},
		{"response_mutations", cfg.Response, &out.response},
		{"response_trailers_mutations", cfg.ResponseTrailers, &out.responseTrailers},
	} {
		var err error
		if *part.to, err = edit.Compile(part.list, format); err != nil {
			errs = append(errs, fmt.Errorf("%s%w", part.name, err))
		}
	}
	return out, errors.Join(errs...)
}

// mutator is the filter of one request.
type mutator struct {
	filter.Pass
	s    filter.Stream
	c    *changes
	sets []*compiled // nil: not asked for yet
}

// list is what changes this request, in order: the filter's own, then those of
// the routes. The least specific of them is the last, and wins, unless it is
// said otherwise. What the first call finds stays, even if the route changes.
func (m *mutator) list() ([]*compiled, error) {
	if m.sets != nil {
		return m.sets, nil
	}
	sets := []*compiled{m.c.own}
	for _, o := range m.s.Overrides() {
		one, err := m.c.overrides.Of(o)
		if err != nil {
			return nil, err
		}
		if one != nil {
			sets = append(sets, one)
		}
	}
	if !m.c.mostSpecificLast {
		slices.Reverse(sets[1:])
	}
	m.sets = sets
	return sets, nil
}

// each runs change for each of the list.
func (m *mutator) each(change func(c *compiled)) filter.Action {
	sets, err := m.list()
	if err != nil {
		m.sets = []*compiled{} // the answer is not changed
		return filter.Misconfigured(m.s, err)
	}
	for _, c := range sets {
		change(c)
	}
	return filter.Continue
}

// RequestHead changes the request.
func (m *mutator) RequestHead(h *message.Head, _ bool) filter.Action {
	return m.each(func(c *compiled) { c.request.Apply(h, m.s.Info()) })
}

// RequestTrailers changes the request's trailers.
func (m *mutator) RequestTrailers(t *message.Fields) filter.Action {
	return m.each(func(c *compiled) { c.requestTrailers.ApplyFields(t, m.s.Info()) })
}

// ResponseHead changes the response.
func (m *mutator) ResponseHead(h *message.Head, _ bool) filter.Action {
	return m.each(func(c *compiled) { c.response.Apply(h, m.s.Info()) })
}

// ResponseTrailers changes the response's trailers.
func (m *mutator) ResponseTrailers(t *message.Fields) filter.Action {
	return m.each(func(c *compiled) { c.responseTrailers.ApplyFields(t, m.s.Info()) })
}
