package route

import (
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// Redirect is the status and the location if the request is redirected: by the
// route, or because the virtual host demands TLS. The status is 0 if not.
func (m *Match) Redirect(r *Request) (status int, location string) {
	switch {
	case m.needsTLS:
		return 301, "https://" + r.Head.Authority + r.Head.Path
	case m.Route == nil || m.Route.Redirect == nil:
		return 0, ""
	}
	if status = m.Route.Redirect.Status; status == 0 {
		status = 301
	}
	return status, m.uri(r, m.Route.Redirect)
}

// Location is the location field of the route's direct response: Envoy sends
// one with 201 and with redirects. "" for none.
func (m *Match) Location(r *Request) string {
	if m.Route == nil || m.Route.Direct == nil {
		return ""
	}
	if s := m.Route.Direct.Status; s != 201 && s/100 != 3 || r.Head.Path == "" {
		return ""
	}
	return m.uri(r, &config.Redirect{})
}

// uri is where a redirect leads.
func (m *Match) uri(r *Request, d *config.Redirect) string {
	scheme := r.scheme()
	switch {
	case d.Scheme != "":
		scheme = d.Scheme
	case d.HTTPS:
		scheme = "https"
	}
	port := ""
	if d.Port != 0 {
		port = ":" + strconv.FormatUint(uint64(d.Port), 10)
	}
	host := d.Host
	if host == "" {
		host = redirectHost(r.Head.Authority, scheme, r.forwarded(), port != "")
	}
	return scheme + "://" + host + port + m.redirectPath(r.Head, d)
}

// redirectHost is an authority without its port if another comes, or if the
// port is that of a scheme which is left.
func redirectHost(authority, scheme, was string, replaced bool) string {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || authority[0] == '[' && authority[i-1] != ']' {
		return authority
	}
	own := was == "https" && authority[i:] == ":443" || was == "http" && authority[i:] == ":80"
	if replaced || scheme != was && own {
		return authority[:i]
	}
	return authority
}

// redirectPath is the path of the location, with its query. path_redirect may
// bring a query of its own, which is not stripped.
func (m *Match) redirectPath(h *message.Head, d *config.Redirect) string {
	plain := pathOf(h.Path, false)
	path := h.Path
	switch {
	case d.Path != "":
		if strings.Contains(d.Path, "?") {
			return d.Path
		}
		path = d.Path
		if i := strings.IndexByte(h.Path, '?'); i >= 0 {
			path += h.Path[i:]
		}
	case d.PrefixRewrite != nil && *d.PrefixRewrite != "":
		path = *d.PrefixRewrite + h.Path[m.entry.criteria.path.matched(h.Path):]
	case m.entry.rewrite.redirect != nil:
		if now := m.entry.rewrite.redirect.apply(plain); now != "" {
			path = now + h.Path[len(plain):]
		}
	}
	if d.StripQuery {
		path, _, _ = strings.Cut(path, "?")
	}
	return path
}
