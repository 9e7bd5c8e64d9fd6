package localratelimit

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// maker makes the descriptor of a request, as one config.RateLimit says.
type maker struct {
	stage    uint32
	disabled bool
	hits     uint64
	entries  []entryMaker
}

// entryMaker makes one entry. With ok false there is no descriptor; with skip
// the descriptor goes without it.
type entryMaker func(r request) (e [2]string, skip, ok bool)

// request is what entries are made of.
type request struct {
	s    filter.Stream
	head *message.Head
}

// routeMakers are the makers of the rate limits that routes and virtual hosts
// have.
type routeMakers struct {
	d      filter.Deps
	routes filter.Attached[config.RouteAction, compiledMakers]
	hosts  filter.Attached[config.VirtualHost, compiledMakers]
}

type compiledMakers struct {
	list []maker
	err  error
}

func newRouteMakers(d filter.Deps) *routeMakers { return &routeMakers{d: d} }

func (m *routeMakers) compiled(list []config.RateLimit) compiledMakers {
	out, err := compileMakers(list, m.d)
	return compiledMakers{out, at("rate_limits", err)}
}

// descriptors are what a request counts as: by the filter's own rate limits, or
// by those of its route and virtual host.
func (r *rules) descriptors(s filter.Stream, h *message.Head) ([]descriptor, error) {
	req := request{s, h}
	if r.makers != nil {
		return made(r.makers, req, 0, true), nil
	}
	route := s.Route()
	if route == nil || route.Action == nil {
		return nil, nil
	}
	own := r.routeMakers.routes.Of(route.Action, func() compiledMakers { return r.routeMakers.compiled(route.Action.RateLimits) })
	if own.err != nil {
		return nil, own.err
	}
	out := made(own.list, req, r.cfg.Stage, false)
	host := s.VirtualHost()
	include := route.Action.IncludeHostRates || r.cfg.VirtualHosts == config.RatesInclude ||
		r.cfg.VirtualHosts == config.RatesOverride && len(own.list) == 0
	if host == nil || !include {
		return out, nil
	}
	theirs := r.routeMakers.hosts.Of(host, func() compiledMakers { return r.routeMakers.compiled(host.RateLimits) })
	return append(out, made(theirs.list, req, r.cfg.Stage, false)...), theirs.err
}

// made makes the descriptors of a list, of one stage or of all.
func made(list []maker, req request, stage uint32, all bool) []descriptor {
	var out []descriptor
	for i := range list {
		m := &list[i]
		if !all && m.stage != stage || m.disabled {
			continue
		}
		if d, ok := m.make(req); ok {
			out = append(out, d)
		}
	}
	return out
}

func (m *maker) make(req request) (descriptor, bool) {
	d := descriptor{hits: m.hits}
	for _, entry := range m.entries {
		e, skip, ok := entry(req)
		switch {
		case !ok:
			return d, false
		case !skip:
			d.entries = append(d.entries, e)
		}
	}
	return d, true
}

func compileMakers(list []config.RateLimit, d filter.Deps) ([]maker, error) {
	var out []maker
	var errs []error
	for i, l := range list {
		m := maker{stage: l.Stage, disabled: l.Disabled, hits: 1}
		if l.Hits != nil {
			m.hits = *l.Hits
		}
		for j, a := range l.Actions {
			e, err := compileAction(a, d)
			if err != nil {
				errs = append(errs, fmt.Errorf("[%d].actions[%d]: %w", i, j, err))
			}
			m.entries = append(m.entries, e)
		}
		out = append(out, m)
	}
	return out, errors.Join(errs...)
}

func compileAction(a config.RateAction, d filter.Deps) (entryMaker, error) {
	var value func(request) string // "": none
	skip := a.SkipIfAbsent
	switch {
	case a.SourceCluster:
		value = func(request) string { return d.Node.Cluster }
	case a.DestinationCluster:
		value = func(r request) string { return r.s.Cluster() }
	case a.RemoteAddress:
		value = func(r request) string { return remote(r.s.Info()) }
	case a.Masked != nil:
		value = func(r request) string { return masked(r.s.Info(), *a.Masked) }
	case a.Header != "":
		value = func(r request) string { return first(r.head, a.Header) }
	case a.Query != "":
		value = func(r request) string { return query(r.head.Path, a.Query) }
	case a.Metadata != nil:
		value = func(r request) string { return orDefault(fromMetadata(r.s, a.Metadata), a.Default) }
	case a.HeaderMatch != nil:
		return headerMatch(a, d)
	case a.QueryMatch != nil:
		return queryMatch(a, d)
	case a.Generic:
		text, err := textOf(a, d)
		value = func(r request) string { return text(r.s.Info()) }
		if err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("no action is set")
	}
	return func(r request) ([2]string, bool, bool) {
		v := value(r)
		return [2]string{a.Key, v}, v == "" && skip, v != "" || skip
	}, nil
}

// textOf is the value of an action, which may be a format.
func textOf(a config.RateAction, d filter.Deps) (func(*flow.Info) string, error) {
	if !strings.Contains(a.Value, "%") {
		return func(*flow.Info) string { return orDefault(a.Value, a.Default) }, nil
	}
	text, err := d.Format(a.Value, true)
	if err != nil {
		return nil, fmt.Errorf("descriptor_value: %w", err)
	}
	return func(i *flow.Info) string { return orDefault(text(i), a.Default) }, nil
}

func orDefault(v, def string) string {
	if v == "" {
		return def
	}
	return v
}

func headerMatch(a config.RateAction, d filter.Deps) (entryMaker, error) {
	m, err := headers.Compile(a.HeaderMatch)
	if err != nil {
		return nil, fmt.Errorf("headers%w", err)
	}
	return matched(a, d, func(r request) bool { return m.Match(r.head) })
}

func queryMatch(a config.RateAction, d filter.Deps) (entryMaker, error) {
	return matched(a, d, func(r request) bool {
		for _, m := range a.QueryMatch {
			v, there := parameter(r.head.Path, m.Name)
			switch {
			case m.Present != nil && there != *m.Present, m.Present == nil && !there,
				m.String != nil && !m.String.Match(v):
				return false
			}
		}
		return true
	})
}

// matched makes the entry if the request matches, or with expect_match false if
// it does not.
func matched(a config.RateAction, d filter.Deps, match func(request) bool) (entryMaker, error) {
	text, err := textOf(a, d)
	if err != nil {
		return nil, err
	}
	return func(r request) ([2]string, bool, bool) {
		if match(r) != a.Expect {
			return [2]string{}, false, false
		}
		v := text(r.s.Info())
		return [2]string{a.Key, v}, false, v != ""
	}, nil
}

// remote is the client's address; "" if it has none.
func remote(i *flow.Info) string {
	if !i.Remote.IsIP() {
		return ""
	}
	return i.Remote.Addr().Unmap().WithZone("").String()
}

func masked(i *flow.Info, mask config.RateMask) string {
	if !i.Remote.IsIP() {
		return ""
	}
	addr, bits := i.Remote.Addr().Unmap().WithZone(""), mask.V6
	if addr.Is4() {
		bits = mask.V4
	}
	return netip.PrefixFrom(addr, bits).Masked().String()
}

// first is the first value of a header: the client could add others.
func first(h *message.Head, name string) string {
	if strings.HasPrefix(name, ":") || name == "host" {
		return h.Value(name)
	}
	return h.Fields.Value(name)
}

func query(path, name string) string {
	v, _ := parameter(path, name)
	return v
}

// parameter is the first value of a query parameter, as it is written.
func parameter(path, name string) (string, bool) {
	_, q, _ := strings.Cut(path, "?")
	q, _, _ = strings.Cut(q, "#")
	for part := range strings.SplitSeq(q, "&") {
		if k, v, _ := strings.Cut(part, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// fromMetadata is a text of the request's metadata, or of its route's.
func fromMetadata(s filter.Stream, m *config.RateMetadata) string {
	at := s.Info().DynamicMetadata[m.Namespace]
	if m.Route {
		at = nil
		if r := s.Route(); r != nil {
			if md, ok := r.Metadata.(*corev3.Metadata); ok {
				at = md.GetFilterMetadata()[m.Namespace]
			}
		}
	}
	var v *structpb.Value
	for _, key := range m.Path {
		v = at.GetFields()[key]
		at = v.GetStructValue()
	}
	return v.GetStringValue()
}
