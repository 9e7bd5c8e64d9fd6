package route

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
	"outrider/proxy/rbac"
)

// entry is one route, compiled.
type entry struct {
	cfg      *config.Route
	criteria *Criteria
	ops      ops
	weighted []weighted
	retry    *retry
	rewrite  rewrite
	hash     []hashPolicy
}

type weighted struct {
	cfg *config.WeightedHTTPCluster
	ops ops
}

func (t *Table) compileRoute(r *config.Route) (*entry, error) {
	e := &entry{cfg: r}
	var err error
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	e.criteria, err = CompileCriteria(r.Match)
	note(err)
	e.ops, err = compileOps(r.Headers, t.deps.Format)
	note(err)
	if r.Redirect != nil && r.Redirect.RegexRewrite != nil {
		e.rewrite.redirect, err = compileRegex(r.Redirect.RegexRewrite)
		note(err)
	}
	a := r.Action
	if a == nil {
		return e, errors.Join(errs...)
	}
	e.retry, err = compileRetry(a.Retry)
	note(err)
	note(e.rewrite.compile(a, t.deps.Format))
	e.hash, err = compileHash(a.HashPolicies)
	note(err)
	if a.Weighted != nil {
		for i := range a.Weighted.Clusters {
			w := weighted{cfg: &a.Weighted.Clusters[i]}
			w.ops, err = compileOps(w.cfg.Headers, t.deps.Format)
			note(err)
			e.weighted = append(e.weighted, w)
		}
	}
	return e, errors.Join(errs...)
}

// Criteria is a RouteMatch, compiled.
type Criteria struct {
	cfg      config.RouteMatch
	regex    *regexp.Regexp
	template *template
	headers  headers.Matchers
}

// CompileCriteria compiles a RouteMatch alone.
func CompileCriteria(cfg config.RouteMatch) (*Criteria, error) {
	c := &Criteria{cfg: cfg}
	var errs []error
	var err error
	if cfg.Regex != "" {
		c.regex, err = certs.CompileRegex(cfg.Regex)
		errs = append(errs, err)
	}
	if cfg.Template != "" {
		c.template, err = compileTemplate(cfg.Template)
		errs = append(errs, err)
	}
	c.headers, err = headers.Compile(cfg.Headers)
	errs = append(errs, err)
	return c, errors.Join(errs...)
}

// Match reports whether a request meets all criteria; what is decided by chance
// is by r.Random.
func (c *Criteria) Match(r *Request) bool {
	path := r.Head.Path
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	return c.fails(r, path, &Deps{Runtime: func(_ string, ppm uint32) uint32 { return ppm }}) == ""
}

func (e *entry) match(r *Request, path string, d *Deps) string { return e.criteria.fails(r, path, d) }

// fails is the first criterion that a request does not meet, "" if it meets
// all.
func (c *Criteria) fails(r *Request, path string, d *Deps) string {
	if !c.path(r.Head, path) {
		return "path"
	}
	cfg := &c.cfg
	switch {
	case cfg.RuntimePPM != nil && r.Random%1e6 >= uint64(d.Runtime(cfg.RuntimeKey, *cfg.RuntimePPM)):
		return "runtime_fraction"
	case cfg.GRPC && !isGRPC(r.Head):
		return "grpc"
	}
	for i := range c.headers {
		if !c.headers[i].Match(r.Head) {
			return "headers: " + c.headers[i].String()
		}
	}
	if len(cfg.Query) > 0 {
		if failed := matchQuery(cfg.Query, r.Head.Path); failed != "" {
			return failed
		}
	}
	for i := range cfg.Cookies {
		if k := &cfg.Cookies[i]; matchCookie(k, r.Head) == k.Invert {
			return "cookies: " + k.Name
		}
	}
	return c.connection(r)
}

// connection is the first criterion about the connection that fails.
func (c *Criteria) connection(r *Request) string {
	cfg := &c.cfg
	if cfg.TLSPresented != nil || cfg.TLSValidated != nil {
		tls := r.Info.Downstream
		switch {
		case tls == nil:
		case cfg.TLSPresented != nil && *cfg.TLSPresented != (len(tls.Peer) > 0):
			return "tls_context.presented"
		case cfg.TLSValidated != nil && *cfg.TLSValidated != tls.PeerVerified:
			return "tls_context.validated"
		}
	}
	for i := range cfg.Metadata {
		if !rbac.MatchMetadata(&cfg.Metadata[i], r.Info) {
			return "dynamic_metadata: " + cfg.Metadata[i].Filter
		}
	}
	for _, f := range cfg.FilterState {
		v, ok := r.Info.FilterState[f.Key]
		if !ok || f.String != nil && !f.String.Match(v) {
			return "filter_state: " + f.Key
		}
	}
	return ""
}

// path reports whether the path criterion is met; a CONNECT meets only
// connect_matcher, and headers-only ones.
func (c *Criteria) path(h *message.Head, path string) bool {
	cfg := &c.cfg
	equal := func(a, b string) bool { return a == b || cfg.IgnoreCase && strings.EqualFold(a, b) }
	begins := func(p string) bool { return len(path) >= len(p) && equal(path[:len(p)], p) }
	switch {
	case cfg.Connect:
		return h.Method == "CONNECT" || hasUpgrade(h)
	case cfg.Path != nil:
		return equal(path, *cfg.Path)
	case cfg.PathSeparatedPrefix != nil:
		p := *cfg.PathSeparatedPrefix
		return begins(p) && (len(path) == len(p) || path[len(p)] == '/')
	case c.regex != nil:
		return c.regex.MatchString(path)
	case c.template != nil:
		return c.template.re.MatchString(path)
	case cfg.Prefix != nil:
		return h.Method != "CONNECT" && begins(*cfg.Prefix)
	}
	return false
}

func hasUpgrade(h *message.Head) bool {
	return h.Fields.Has("upgrade") && strings.Contains(strings.ToLower(h.Fields.Value("connection")), "upgrade")
}

// isGRPC goes by the content type.
func isGRPC(h *message.Head) bool {
	ct, _ := h.Fields.Get("content-type")
	const base = "application/grpc"
	return strings.HasPrefix(ct, base) && (len(ct) == len(base) || ct[len(base)] == '+')
}

// matchQuery is the first matcher that the query does not meet, "" for none.
func matchQuery(list []config.QueryMatcher, path string) string {
	params := query(path)
	for i := range list {
		m := &list[i]
		at := slices.IndexFunc(params, func(p [2]string) bool { return p[0] == m.Name })
		ok := at >= 0
		switch {
		case m.Present != nil:
			ok = ok == *m.Present
		case ok && m.String != nil:
			ok = m.String.Match(params[at][1])
		}
		if !ok {
			return "query_parameters: " + m.Name
		}
	}
	return ""
}

// query are the parameters of a path, decoded.
func query(path string) [][2]string {
	_, text, ok := strings.Cut(path, "?")
	if !ok {
		return nil
	}
	text, _, _ = strings.Cut(text, "#")
	var out [][2]string
	for part := range strings.SplitSeq(text, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		out = append(out, [2]string{decoded(name), decoded(value)})
	}
	return out
}

// decoded is a text without its percent-encoding, or as it is if that is
// broken.
func decoded(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// cookie is the value of a cookie.
func cookie(h *message.Head, name string) (string, bool) {
	for i := range h.Fields {
		if h.Fields[i].Name != "cookie" {
			continue
		}
		for part := range strings.SplitSeq(h.Fields[i].Value, ";") {
			k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
			if ok && k == name {
				return strings.Trim(v, `"`), true
			}
		}
	}
	return "", false
}

func matchCookie(m *config.CookieMatcher, h *message.Head) bool {
	v, ok := cookie(h, m.Name)
	return ok && (m.String == nil || m.String.Match(v))
}

// retry is a retry policy's matchers.
type retry struct {
	cfg                *config.RetryPolicy
	response, requests headers.Matchers
}

func compileRetry(cfg *config.RetryPolicy) (*retry, error) {
	if cfg == nil {
		return nil, nil
	}
	r := &retry{cfg: cfg}
	var err1, err2 error
	r.response, err1 = headers.Compile(cfg.RetriableHeaders)
	r.requests, err2 = headers.Compile(cfg.RequestHeaders)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("retry_policy: %w", err)
	}
	return r, nil
}

// ops is what one level changes in the heads.
type ops struct {
	request, response             []edit.Add
	requestRemove, responseRemove []string
}

func compileOps(cfg config.HeaderOps, format edit.Formatter) (ops, error) {
	o := ops{requestRemove: cfg.RequestRemove, responseRemove: cfg.ResponseRemove}
	var err1, err2 error
	o.request, err1 = edit.CompileAdds(cfg.RequestAdd, format)
	o.response, err2 = edit.CompileAdds(cfg.ResponseAdd, format)
	return o, errors.Join(err1, err2)
}
