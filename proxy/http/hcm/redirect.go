package hcm

import (
	"net/url"
	"slices"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
)

// redirect follows a redirect of the upstream's by itself, if the route's
// internal_redirect_policy says so. The request passes the filters anew.
func (a *attempt) redirect(h *message.Head) bool {
	s := a.s
	policy := s.found.Route.Action.InternalRedirect
	if policy == nil || !slices.Contains(redirectCodes(policy), uint32(h.Status)) {
		return false
	}
	target, refusal := a.redirectTarget(policy, h)
	if target == nil || refusal != "" {
		if refusal != "" {
			s.m.stats.redirectRefusals[refusal].Inc()
		}
		s.router.cluster.InternalRedirect(false)
		return false
	}
	body := s.router.body
	trailers := s.router.trailers
	s.router.cluster.InternalRedirect(true)
	s.router.current = nil
	a.outcome(cluster.Answered)
	a.sender.Reset(codec.Cancel)
	s.router = router{s: s, redirects: s.router.redirects + 1, previous: append(s.router.previous, s.found.Route)}
	s.follow(policy, target, h)
	s.m.redirected(s, h.Status)
	if h.Status == 303 && s.http.Request.Method == "GET" {
		body = nil
	}
	s.resend(body, trailers)
	return true
}

func redirectCodes(p *config.InternalRedirect) []uint32 {
	if len(p.Codes) == 0 {
		return []uint32{302}
	}
	return p.Codes
}

// redirectRefusal is why a redirect is passed on to the client.
type redirectRefusal string

const (
	badLocation      redirectRefusal = "bad_location"
	noRedirectRoute  redirectRefusal = "no_route"
	predicateRefused redirectRefusal = "predicate"
	tooManyRedirects redirectRefusal = "too_many_redirects"
	unsafeScheme     redirectRefusal = "unsafe_scheme"
)

// redirectTarget is where the request would go, nil with the reason if it must
// not; no reason is that the request cannot be sent again.
func (a *attempt) redirectTarget(p *config.InternalRedirect, h *message.Head) (*url.URL, redirectRefusal) {
	s := a.s
	location, ok := h.Fields.Get("location")
	switch {
	case !ok:
		return nil, ""
	case !s.requestEnd || !s.router.keep || !s.router.complete:
		return nil, ""
	case s.router.redirects >= max(p.Max, 1):
		return nil, tooManyRedirects
	}
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return nil, badLocation
	}
	req := s.http.Request
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, badLocation
	case u.Scheme != req.Scheme && !p.AllowCrossScheme && !p.SafeCrossScheme:
		return nil, unsafeScheme
	case p.SafeCrossScheme && u.Scheme == "https" && s.transportScheme() != "https":
		return nil, predicateRefused
	}
	return u, s.redirectRoute(p, u)
}

// redirectRoute is why the route that the target has may not be taken, "" if it
// may.
func (s *stream) redirectRoute(p *config.InternalRedirect, u *url.URL) redirectRefusal {
	req := s.http.Request.Clone()
	defer req.Release()
	req.Scheme, req.Authority, req.Path = u.Scheme, u.Host, u.RequestURI()
	to, ok := s.table.Find(&route.Request{Head: req, Info: s.info, Scheme: u.Scheme, Random: s.m.deps.Rand()})
	switch {
	case !ok || to.Route == nil || to.Route.Action == nil:
		return noRedirectRoute
	case p.AllowedRoutes != nil && !slices.Contains(p.AllowedRoutes, to.Route.Name):
		return predicateRefused
	case p.PreviousRoutes && (to.Route == s.found.Route || slices.Contains(s.router.previous, to.Route)):
		return predicateRefused
	}
	return ""
}

// follow makes the request the one to the new place.
func (s *stream) follow(p *config.InternalRedirect, u *url.URL, h *message.Head) {
	req := s.http.Request
	req.Fields.Set("x-envoy-original-url", req.Scheme+"://"+req.Authority+s.http.OriginalPath)
	req.Scheme, req.Authority = u.Scheme, u.Host
	req.Path = u.EscapedPath()
	if req.Path == "" {
		req.Path = "/"
	}
	if u.RawQuery != "" {
		req.Path += "?" + u.RawQuery
	}
	s.http.OriginalPath = req.Path
	for _, name := range p.CopyHeaders {
		if v, ok := h.Fields.Get(name); ok {
			req.Fields.Set(name, v)
		} else {
			req.Fields.Del(name)
		}
	}
	if h.Status == 303 && req.Method != "GET" && req.Method != "HEAD" {
		req.Method = "GET"
		req.Fields.Del("content-length")
		req.Fields.Del("content-type")
	}
}

// resend takes the whole request through the filters again.
func (s *stream) resend(body []byte, trailers bool) {
	for i := range s.links {
		s.links[i].filter.End()
	}
	s.links = nil
	s.clearRoute()
	s.makeLinks()
	s.requests().head(0, len(body) == 0 && !trailers)
	if len(body) > 0 && !s.requests().stopped() {
		s.requests().data(0, body, !trailers)
	}
	if trailers && !s.requests().stopped() {
		s.requests().trailers(0)
	}
}
