package route

import (
	"errors"
	"fmt"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
	"outrider/proxy/http/pathnorm"
)

// ConnectPort is the name in the filter state of the port that was taken from
// the authority of a CONNECT request (strip_any_host_port): it is given back
// when the request goes upstream.
const ConnectPort = "envoy.router.original_connect_port"

// rewrite is what a route does to path and host.
type rewrite struct {
	path, hostPath, redirect *substitution
	template                 *templateRewrite
	pathFormat, hostFormat   func(*flow.Info) string
}

// compile is after that of the criteria, whose template it needs.
func (w *rewrite) compile(r *config.Route, criteria *Criteria, format edit.Formatter) error {
	var errs []error
	note := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	var err error
	if r.Redirect != nil {
		w.redirect, err = compileSubstitution(r.Redirect.RegexRewrite)
		note("redirect.regex_rewrite", err)
	}
	a := r.Action
	if a == nil {
		return errors.Join(errs...)
	}
	w.path, err = compileSubstitution(a.RegexRewrite)
	note("regex_rewrite", err)
	w.hostPath, err = compileSubstitution(a.HostRewritePath)
	note("host_rewrite_path_regex", err)
	if a.PathTemplateRewrite != "" {
		w.template, err = compileTemplateRewrite(a.PathTemplateRewrite, criteria.path.template)
		note("path_rewrite_policy", err)
	}
	if a.PathFormatRewrite != "" { // what is not there is nothing here, and "-" in the host: Envoy 1.40
		w.pathFormat, err = format(a.PathFormatRewrite, true)
		note("path_rewrite", err)
	}
	if a.HostRewriteFormat != "" {
		w.hostFormat, err = format(a.HostRewriteFormat, false)
		note("host_rewrite", err)
	}
	if criteria.path.kind == byTemplate && a.PrefixRewrite != "" {
		note("prefix_rewrite", errors.New("cannot be used with a uri_template"))
	}
	return errors.Join(errs...)
}

// rewritePath rewrites the path and keeps the query.
func (m *Match) rewritePath(h *message.Head, info *flow.Info) {
	a, w := m.Route.Action, &m.entry.rewrite
	plain := pathOf(h.Path, false)
	path := ""
	switch {
	case a.PrefixRewrite != "":
		path = a.PrefixRewrite + h.Path[m.entry.criteria.path.matched(h.Path):]
	case w.path != nil:
		path = w.path.apply(plain) + h.Path[len(plain):]
	case w.template != nil:
		path = w.template.apply(plain) + h.Path[len(plain):]
	case w.pathFormat != nil:
		if path = w.pathFormat(info); path == "" {
			return
		}
		path += h.Path[len(plain):]
	default:
		return
	}
	m.setPath(h, path)
}

// setPath keeps the old path in x-envoy-original-path.
func (m *Match) setPath(h *message.Head, path string) {
	if !m.table.deps.SuppressEnvoyHeaders {
		h.Fields.Set("x-envoy-original-path", h.Path)
	}
	h.Path = path
}

// rewriteHost rewrites the authority.
func (m *Match) rewriteHost(h *message.Head, info *flow.Info) {
	if port := info.FilterState[ConnectPort]; port != "" && pathnorm.PortStart(h.Authority) < 0 {
		h.Authority += ":" + port
	}
	a, w := m.Route.Action, &m.entry.rewrite
	name := ""
	switch {
	case a.HostRewrite != "":
		name = a.HostRewrite
	case a.HostRewriteHeader != "":
		name = first(h, a.HostRewriteHeader)
	case w.hostPath != nil:
		name = w.hostPath.apply(pathOf(h.Path, false))
	case w.hostFormat != nil:
		name = w.hostFormat(info)
	}
	if name != "" {
		m.RewriteHost(h, name)
	}
}

// RewriteHost makes name the authority, as auto_host_rewrite does once the
// host is chosen. The old one is kept in x-envoy-original-host and, where the
// route wants it, at the end of x-forwarded-host.
func (m *Match) RewriteHost(h *message.Head, name string) {
	was := h.Authority
	if was != "" && !m.table.deps.SuppressEnvoyHeaders {
		h.Fields.Set("x-envoy-original-host", was)
	}
	h.Authority = name
	if was == "" || m.Route == nil || m.Route.Action == nil || !m.Route.Action.AppendXFHost {
		return
	}
	all, _ := h.Fields.Joined("x-forwarded-host")
	if last := strings.LastIndexByte(strings.TrimRight(all, ","), ','); all != "" {
		if strings.TrimRight(all, ",")[last+1:] == was {
			return
		}
		was = all + "," + was
	}
	h.Fields.Set("x-forwarded-host", was)
}

// first is the first value of a field, or the value of a pseudo-header: of a
// header that says where to go no more is trusted.
func first(h *message.Head, name string) string {
	if v, ok := h.Fields.Get(name); ok && !message.Inline(name) {
		return v
	}
	return h.Value(name)
}
