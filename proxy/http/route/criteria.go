package route

import (
	"errors"
	"fmt"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
	"outrider/proxy/rbac"
)

// Criteria is a RouteMatch, compiled.
type Criteria struct {
	cfg     config.RouteMatch
	path    pathMatcher
	headers headers.Matchers
	runtime func(key string, ppm uint32) uint32
}

// CompileCriteria compiles a RouteMatch alone, for filters that have rules of
// that form. No runtime is asked.
func CompileCriteria(cfg config.RouteMatch) (*Criteria, error) { return compileCriteria(cfg, nil) }

func compileCriteria(cfg config.RouteMatch, runtime func(string, uint32) uint32) (*Criteria, error) {
	c := &Criteria{cfg: cfg, runtime: runtime}
	var errs []error
	var err error
	c.path, err = compilePath(&cfg)
	errs = append(errs, err)
	if c.headers, err = headers.Compile(cfg.Headers); err != nil {
		errs = append(errs, fmt.Errorf("headers%w", err))
	}
	for i, q := range cfg.Query {
		if q.Name == "" {
			errs = append(errs, fmt.Errorf("query_parameters[%d]: has no name", i))
		}
	}
	for i, k := range cfg.Cookies {
		if k.Name == "" || k.String == nil {
			errs = append(errs, fmt.Errorf("cookies[%d] %q: needs a name and a matcher", i, k.Name))
		}
	}
	for i, f := range cfg.FilterState {
		if f.String == nil {
			errs = append(errs, fmt.Errorf("filter_state[%d] %q: no matcher is set", i, f.Key))
		}
	}
	return c, errors.Join(errs...)
}

// Match reports whether a request meets all criteria.
func (c *Criteria) Match(r *Request) bool { return c.match(r, pathOf(r.Head.Path, false), nil) }

// Why is the first criterion that a request does not meet; "" if it meets all.
func (c *Criteria) Why(r *Request) string {
	var t Trial
	c.match(r, pathOf(r.Head.Path, false), &t)
	return t.Failed
}

// match is Match of a request with that path (without its query); if t is not
// nil it is told why not.
func (c *Criteria) match(r *Request, path string, t *Trial) bool {
	if !c.path.match(r.Head, path) {
		return t != nil && t.fails("path", func() string { return c.path.why(r.Head, path) })
	}
	cfg := &c.cfg
	if cfg.RuntimePPM != nil {
		ppm := *cfg.RuntimePPM
		if c.runtime != nil {
			ppm = c.runtime(cfg.RuntimeKey, ppm)
		}
		if r.Random%1e6 >= uint64(ppm) {
			return t != nil && t.fails("runtime_fraction", func() string { return fmt.Sprintf("%d of a million, and this is not one of them", ppm) })
		}
	}
	if cfg.GRPC && !isGRPC(r.Head) {
		return t != nil && t.fails("grpc", func() string { return fmt.Sprintf("the content type is %q", r.Head.Fields.Value("content-type")) })
	}
	if !c.headers.Match(r.Head) {
		return t != nil && t.fails("headers", func() string { return c.headers.Why(r.Head) })
	}
	for i := range cfg.Query {
		if q := &cfg.Query[i]; !matchQuery(q, r.Head.Path) {
			return t != nil && t.fails("query_parameters", func() string { return whyQuery(q, r.Head.Path) })
		}
	}
	for i := range cfg.Cookies {
		if k := &cfg.Cookies[i]; !matchCookie(k, r.Head) {
			return t != nil && t.fails("cookies", func() string { return whyCookie(k, r.Head) })
		}
	}
	return c.connection(r, t)
}

// connection is of the criteria about what is not in the request.
func (c *Criteria) connection(r *Request, t *Trial) bool {
	cfg := &c.cfg
	if cfg.TLSPresented != nil || cfg.TLSValidated != nil {
		presented, validated := false, false
		if tls := r.Info.Downstream; tls != nil {
			presented, validated = len(tls.Peer) > 0, tls.PeerVerified
		}
		if differs(cfg.TLSPresented, presented) || differs(cfg.TLSValidated, validated) {
			return t != nil && t.fails("tls_context", func() string {
				return fmt.Sprintf("a client certificate was presented: %v, validated: %v", presented, validated)
			})
		}
	}
	for i := range cfg.Metadata {
		if m := &cfg.Metadata[i]; !rbac.MatchMetadata(m, r.Info) {
			return t != nil && t.fails("dynamic_metadata", func() string { return rbac.WhyMetadata(m, r.Info) })
		}
	}
	for i := range cfg.FilterState {
		f := &cfg.FilterState[i]
		v, ok := r.Info.State(f.Key)
		if !ok || !f.String.Match(v) {
			return t != nil && t.fails("filter_state", func() string { return fmt.Sprintf("%s %s: it is %q", f.Key, f.String, v) })
		}
	}
	return true
}

func differs(want *bool, is bool) bool { return want != nil && *want != is }

// isGRPC goes by the content type, as Envoy: with a message format after a
// plus, but with no parameters.
func isGRPC(h *message.Head) bool {
	const grpc = "application/grpc"
	ct, _ := h.Fields.Get("content-type")
	return strings.HasPrefix(ct, grpc) && (len(ct) == len(grpc) || ct[len(grpc)] == '+')
}
