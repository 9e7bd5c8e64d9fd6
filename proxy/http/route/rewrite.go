package route

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
)

// substitution replaces every match of an expression (RegexMatchAndSubstitute).
type substitution struct {
	re   *regexp.Regexp
	text string // in Go's syntax: ${1}
}

func compileRegex(cfg *config.RegexRewrite) (*substitution, error) {
	re, err := regexp.Compile(cfg.Pattern)
	if err != nil {
		return nil, fmt.Errorf("regex_rewrite: %w", err)
	}
	var b strings.Builder
	for i := 0; i < len(cfg.Substitution); i++ {
		switch c := cfg.Substitution[i]; {
		case c == '$':
			b.WriteString("$$")
		case c == '\\' && i+1 < len(cfg.Substitution):
			i++
			next := cfg.Substitution[i]
			if next >= '0' && next <= '9' {
				fmt.Fprintf(&b, "${%c}", next)
				continue
			}
			b.WriteByte(next)
		default:
			b.WriteByte(c)
		}
	}
	return &substitution{re, b.String()}, nil
}

func (s *substitution) apply(text string) string { return s.re.ReplaceAllString(text, s.text) }

// rewrite is what a route does to path and host.
type rewrite struct {
	path, hostPath, redirect *substitution
	template                 *templateRewrite
	pathFormat, hostFormat   func(*flow.Info) string
}

func (w *rewrite) compile(a *config.RouteAction, format edit.Formatter) error {
	var errs []error
	sub := func(cfg *config.RegexRewrite) *substitution {
		if cfg == nil {
			return nil
		}
		s, err := compileRegex(cfg)
		errs = append(errs, err)
		return s
	}
	text := func(t string) func(*flow.Info) string {
		if t == "" {
			return nil
		}
		f, err := format(t, true)
		errs = append(errs, err)
		return f
	}
	w.path, w.hostPath = sub(a.RegexRewrite), sub(a.HostRewritePath)
	w.pathFormat, w.hostFormat = text(a.PathFormatRewrite), text(a.HostRewriteFormat)
	if a.PathTemplateRewrite != "" {
		var err error
		w.template, err = compileTemplateRewrite(a.PathTemplateRewrite)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// rewritePath rewrites the path and keeps the query; the old one is in
// x-envoy-original-path.
func (m *Match) rewritePath(h *message.Head, info *flow.Info) {
	a, w := m.Route.Action, &m.entry.rewrite
	path, query := h.Path, ""
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path, query = path[:i], path[i:]
	}
	switch {
	case a.PrefixRewrite != "":
		path = a.PrefixRewrite + path[min(len(path), m.entry.criteria.matched(path)):]
	case w.path != nil:
		path = w.path.apply(path)
	case w.template != nil:
		path = w.template.apply(m.entry.criteria.template, path)
	case w.pathFormat != nil:
		path = w.pathFormat(info)
	default:
		return
	}
	h.Fields.Set("x-envoy-original-path", h.Path)
	h.Path = path + query
}

// matched is how much of a path the criterion takes, which prefix_rewrite
// replaces.
func (c *Criteria) matched(path string) int {
	switch {
	case c.cfg.Prefix != nil:
		return len(*c.cfg.Prefix)
	case c.cfg.PathSeparatedPrefix != nil:
		return len(*c.cfg.PathSeparatedPrefix)
	}
	return len(path)
}

// rewriteHost rewrites the authority.
func (m *Match) rewriteHost(h *message.Head, info *flow.Info) {
	a, w := m.Route.Action, &m.entry.rewrite
	host := ""
	switch {
	case m.Weighted != nil && m.Weighted.HostRewrite != "":
		host = m.Weighted.HostRewrite
	case a.HostRewrite != "":
		host = a.HostRewrite
	case a.HostRewriteHeader != "":
		host = h.Value(a.HostRewriteHeader)
	case w.hostPath != nil:
		path, _, _ := strings.Cut(h.Path, "?")
		host = w.hostPath.apply(path)
	case w.hostFormat != nil:
		host = w.hostFormat(info)
	}
	if host != "" {
		m.RewriteHost(h, host)
	}
}

// RewriteHost makes host the authority, as auto_host_rewrite does once the
// host is chosen.
func (m *Match) RewriteHost(h *message.Head, host string) {
	if m.Route.Action.AppendXFHost && h.Authority != "" {
		was := h.Authority
		if old, ok := h.Fields.Joined("x-forwarded-host"); ok && old != "" {
			if old == was || strings.HasSuffix(old, ","+was) {
				was = old
			} else {
				was = old + "," + was
			}
		}
		h.Fields.Set("x-forwarded-host", was)
	}
	if h.Authority != "" && h.Authority != host {
		h.Fields.Set("x-envoy-original-host", h.Authority)
	}
	h.Authority = host
}

// Redirect is the status and the location if the request is redirected: by the
// route, or because the virtual host demands TLS. The status is 0 if not.
func (m *Match) Redirect(r *Request) (status int, location string) {
	h := r.Head
	if m.needsTLS {
		return 301, "https://" + withDefaultPort(h.Authority, "http") + h.Path
	}
	if m.Route == nil || m.Route.Redirect == nil {
		return 0, ""
	}
	rd := m.Route.Redirect
	status = rd.Status
	if status == 0 {
		status = 301
	}
	now := forwardedScheme(r)
	scheme := now
	switch {
	case rd.HTTPS:
		scheme = "https"
	case rd.Scheme != "":
		scheme = rd.Scheme
	}
	host := rd.Host
	if host == "" {
		host = h.Authority
		if scheme != now || rd.Port != 0 {
			host = withDefaultPort(host, now)
		}
	}
	if rd.Port != 0 {
		host = withoutPort(host) + ":" + strconv.FormatUint(uint64(rd.Port), 10)
	}
	return status, scheme + "://" + host + m.redirectPath(rd, h)
}

// withDefaultPort is a host without the port that is its scheme's own.
func withDefaultPort(host, scheme string) string {
	port := map[string]string{"http": ":80", "https": ":443"}[scheme]
	if port != "" && strings.HasSuffix(host, port) {
		return withoutPort(host)
	}
	return host
}

func (m *Match) redirectPath(rd *config.Redirect, h *message.Head) string {
	path, query := h.Path, ""
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path, query = path[:i], path[i:]
	}
	switch {
	case rd.Path != "":
		if strings.Contains(rd.Path, "?") { // it brings its own
			return rd.Path
		}
		path = rd.Path
	case rd.PrefixRewrite != nil:
		path = *rd.PrefixRewrite + path[min(len(path), m.entry.criteria.matched(path)):]
	case m.entry.rewrite.redirect != nil:
		path = m.entry.rewrite.redirect.apply(path)
	}
	if rd.StripQuery {
		return path
	}
	return path + query
}
