// Package route finds the route of a request, and says what it does to the
// request and to its answer: envoy.config.route.v3 as a compiled table. It is
// pure: it has no connections and no time.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// Deps is what a table is compiled with.
type Deps struct {
	// Format compiles a text in the language of access logs.
	Format func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// Runtime is the value of a runtime key as parts per million, or ppm.
	Runtime func(key string, ppm uint32) uint32
	Rand    func() uint64
}

// Table is a route configuration, compiled. It is immutable.
type Table struct {
	cfg      *config.RouteConfig
	deps     Deps
	ops      ops
	exact    map[string]*host
	suffixes []wildcard // "*.example.com", the longest first
	prefixes []wildcard // "example.*", the longest first
	all      *host      // "*"; nil: none
}

type wildcard struct {
	text string // without the star
	host *host
}

// host is one virtual host.
type host struct {
	cfg      *config.VirtualHost
	routes   []*entry
	ops      ops
	clusters []virtualCluster
	retry    *retry
}

type virtualCluster struct {
	name string
	when headers.Matchers
}

// Compile compiles a route configuration. Every mistake is in the error.
func Compile(cfg *config.RouteConfig, d Deps) (*Table, error) {
	t := &Table{cfg: cfg, deps: d, exact: map[string]*host{}}
	var errs []error
	note := func(err error, format string, args ...any) {
		if err != nil {
			errs = append(errs, fmt.Errorf(format+": %w", append(args, err)...))
		}
	}
	var err error
	t.ops, err = compileOps(cfg.Headers, d.Format)
	note(err, "route configuration %q", cfg.Name)
	for _, v := range cfg.VirtualHosts {
		h, err := t.compileHost(v)
		note(err, "virtual host %q", v.Name)
		for _, domain := range v.Domains {
			t.add(strings.ToLower(domain), h)
		}
	}
	longest := func(a, b wildcard) int { return cmp.Compare(len(b.text), len(a.text)) }
	slices.SortStableFunc(t.suffixes, longest)
	slices.SortStableFunc(t.prefixes, longest)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Table) add(domain string, h *host) {
	switch {
	case domain == "*":
		t.all = h
	case strings.HasPrefix(domain, "*"):
		t.suffixes = append(t.suffixes, wildcard{domain[1:], h})
	case strings.HasSuffix(domain, "*"):
		t.prefixes = append(t.prefixes, wildcard{domain[:len(domain)-1], h})
	default:
		t.exact[domain] = h
	}
}

func (t *Table) compileHost(v *config.VirtualHost) (*host, error) {
	h := &host{cfg: v}
	var err error
	var errs []error
	h.ops, err = compileOps(v.Headers, t.deps.Format)
	errs = append(errs, err)
	h.retry, err = compileRetry(v.Retry)
	errs = append(errs, err)
	for _, c := range v.VirtualClusters {
		when, err := headers.Compile(c.Headers)
		errs = append(errs, err)
		h.clusters = append(h.clusters, virtualCluster{c.Name, when})
	}
	for i, r := range v.Routes {
		e, err := t.compileRoute(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("routes[%d]: %w", i, err))
		}
		h.routes = append(h.routes, e)
	}
	return h, errors.Join(errs...)
}

// Name is the route configuration's.
func (t *Table) Name() string { return t.cfg.Name }

// Config is what the table was compiled from.
func (t *Table) Config() *config.RouteConfig { return t.cfg }

// InternalOnly is internal_only_headers.
func (t *Table) InternalOnly() []string { return t.cfg.InternalOnly }

// Request is what a route is found by.
type Request struct {
	Head *message.Head
	Info *flow.Info
	// Scheme is the request's, or what x-forwarded-proto says.
	Scheme   string
	Internal bool
	// Random decides among weighted clusters and fractions.
	Random uint64
}

// Trace is how a route was found, or not.
type Trace struct {
	Host string `json:"host"`
	// VirtualHost is the one whose Domain matched; "" for none.
	VirtualHost string  `json:"virtual_host,omitempty"`
	Domain      string  `json:"domain,omitempty"`
	Trials      []Trial `json:"routes,omitempty"`
	Cluster     string  `json:"cluster,omitempty"`
}

// Trial is how one route fared.
type Trial struct {
	Route   string `json:"route"` // its name, or its place: routes[2]
	Matched bool   `json:"matched"`
	// Failed is the first criterion that did not match.
	Failed string `json:"failed,omitempty"`
}

// Find is the route of a request; false if it has none.
func (t *Table) Find(r *Request) (*Match, bool) { return t.find(r, nil) }

// Explain is how Find comes to its result.
func (t *Table) Explain(r *Request) (*Match, Trace) {
	var trace Trace
	m, _ := t.find(r, &trace)
	return m, trace
}

func (t *Table) find(r *Request, trace *Trace) (*Match, bool) {
	h, domain := t.hostOf(r)
	if trace != nil {
		trace.Host = r.Head.Authority
	}
	if h == nil {
		return nil, false
	}
	if trace != nil {
		trace.VirtualHost, trace.Domain = h.cfg.Name, domain
	}
	if h.demandsTLS(r) {
		return &Match{table: t, host: h, Config: t.cfg, VirtualHost: h.cfg, needsTLS: true}, true
	}
	path := t.pathOf(r.Head.Path)
	for i, e := range h.routes {
		failed := e.match(r, path, &t.deps)
		if trace != nil {
			name := e.cfg.Name
			if name == "" {
				name = fmt.Sprintf("routes[%d]", i)
			}
			trace.Trials = append(trace.Trials, Trial{name, failed == "", failed})
		}
		if failed != "" {
			continue
		}
		m := &Match{table: t, host: h, entry: e, Config: t.cfg, VirtualHost: h.cfg, Route: e.cfg}
		m.choose(r)
		if trace != nil {
			trace.Cluster = m.Cluster
		}
		return m, true
	}
	return nil, false
}

// hostOf is the virtual host: by the whole name, by the longest suffix, by the
// longest prefix, or the one for all.
func (t *Table) hostOf(r *Request) (*host, string) {
	name := r.Head.Authority
	if strings.ContainsFunc(name, func(c rune) bool { return c >= 'A' && c <= 'Z' }) {
		name = strings.ToLower(name)
	}
	if t.cfg.IgnorePortInHost {
		name = withoutPort(name)
	}
	if h := t.exact[name]; h != nil {
		return h, name
	}
	for _, w := range t.suffixes {
		if len(name) > len(w.text) && strings.HasSuffix(name, w.text) {
			return w.host, "*" + w.text
		}
	}
	for _, w := range t.prefixes {
		if len(name) > len(w.text) && strings.HasPrefix(name, w.text) {
			return w.host, w.text + "*"
		}
	}
	return t.all, "*"
}

// withoutPort is a host without its port.
func withoutPort(name string) string {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.IndexByte(name[i:], ']') >= 0 || strings.IndexByte(name, ':') != i && name[i-1] != ']' {
		return name
	}
	return name[:i]
}

func (h *host) demandsTLS(r *Request) bool {
	switch h.cfg.RequireTLS {
	case config.TLSForAll:
		return forwardedScheme(r) != "https"
	case config.TLSForExternal:
		return !r.Internal && forwardedScheme(r) != "https"
	}
	return false
}

// forwardedScheme is what x-forwarded-proto says, else the request's scheme.
func forwardedScheme(r *Request) string {
	if v, ok := r.Head.Fields.Get("x-forwarded-proto"); ok {
		return v
	}
	return r.Scheme
}

// pathOf is the path that routes are matched with: without query and fragment,
// and without what comes after a semicolon if so configured.
func (t *Table) pathOf(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if t.cfg.IgnorePathParameters {
		if i := strings.IndexByte(path, ';'); i >= 0 {
			path = path[:i]
		}
	}
	return path
}
