package jwtauthn

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// rule is what the requests that match it need; nil for nothing.
type rule struct {
	match    *match
	requires *requirement
}

// match is the part of a route's match that Envoy looks at here: path, headers
// and query parameters.
type match struct {
	cfg     *config.RouteMatch
	regex   *regexp.Regexp
	headers headers.Matchers
}

func compileMatch(c *config.RouteMatch) (*match, error) {
	m := &match{cfg: c}
	var err error
	if c.Template != "" {
		return nil, errors.New("path_match_policy is not supported in a rule of jwt_authn")
	}
	if c.Regex != "" {
		if m.regex, err = certs.CompileRegex(c.Regex); err != nil {
			return nil, fmt.Errorf("safe_regex: %w", err)
		}
	}
	m.headers, err = headers.Compile(c.Headers)
	return m, err
}

func (m *match) matches(h *message.Head) bool {
	return m.path(h) && m.headers.Match(h) && m.query(h.Path)
}

func (m *match) path(h *message.Head) bool {
	path, _, _ := strings.Cut(h.Path, "?")
	path, _, _ = strings.Cut(path, "#")
	switch c := m.cfg; {
	case c.Prefix != nil:
		return m.begins(path, *c.Prefix)
	case c.Path != nil:
		return len(path) == len(*c.Path) && m.begins(path, *c.Path)
	case c.PathSeparatedPrefix != nil:
		n := len(*c.PathSeparatedPrefix)
		return m.begins(path, *c.PathSeparatedPrefix) && (len(path) == n || path[n] == '/')
	case m.regex != nil:
		return m.regex.MatchString(path)
	case c.Connect:
		return h.Method == "CONNECT"
	}
	return false
}

func (m *match) begins(path, prefix string) bool {
	if m.cfg.IgnoreCase {
		return len(path) >= len(prefix) && strings.EqualFold(path[:len(prefix)], prefix)
	}
	return strings.HasPrefix(path, prefix)
}

func (m *match) query(path string) bool {
	for i := range m.cfg.Query {
		q := &m.cfg.Query[i]
		value, there := param(path, q.Name)
		switch {
		case q.Present != nil:
			if there != *q.Present {
				return false
			}
		case !there, q.String != nil && !q.String.Match(value):
			return false
		}
	}
	return true
}
