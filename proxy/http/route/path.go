package route

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// pathKind says which path criterion a route has.
type pathKind uint8

const (
	byPrefix pathKind = iota
	byPath
	bySeparatedPrefix
	byRegex
	byTemplate
	byConnect
)

// pathMatcher is the path criterion.
type pathMatcher struct {
	kind     pathKind
	text     string
	fold     bool // not case-sensitive: text is in lower case
	regex    *regexp.Regexp
	template *template
}

func compilePath(cfg *config.RouteMatch) (pathMatcher, error) {
	var all []pathMatcher
	add := func(kind pathKind, text *string) {
		if text != nil {
			all = append(all, pathMatcher{kind: kind, text: *text})
		}
	}
	add(byPrefix, cfg.Prefix)
	add(byPath, cfg.Path)
	add(bySeparatedPrefix, cfg.PathSeparatedPrefix)
	if cfg.Regex != "" {
		add(byRegex, &cfg.Regex)
	}
	if cfg.Template != "" {
		add(byTemplate, &cfg.Template)
	}
	if cfg.Connect {
		all = append(all, pathMatcher{kind: byConnect})
	}
	if len(all) != 1 {
		return pathMatcher{}, fmt.Errorf("match: %d path criteria are set, and not one", len(all))
	}
	m := all[0]
	var err error
	switch m.kind {
	case byRegex:
		if m.regex, err = certs.CompileRegex(m.text); err != nil {
			err = fmt.Errorf("match: safe_regex %q: %w", m.text, err)
		}
	case byTemplate:
		m.template, err = compileTemplate(m.text)
	case bySeparatedPrefix:
		if m.text == "" || strings.HasSuffix(m.text, "/") || strings.ContainsAny(m.text, "?#") {
			err = errors.New("match: path_separated_prefix " + m.text + " is empty, ends with / or has ? or #")
		}
		fallthrough
	default:
		if m.fold = cfg.IgnoreCase; m.fold {
			m.text = lower(m.text)
		}
	}
	return m, err
}

// match is about the path without its query. A request without a path, which
// CONNECT is, meets nothing but the criterion for CONNECT.
func (m *pathMatcher) match(h *message.Head, path string) bool {
	if m.kind == byConnect {
		return h.Method == "CONNECT"
	}
	if h.Path == "" {
		return false
	}
	switch m.kind {
	case byPrefix:
		return m.begins(path)
	case byPath:
		return len(path) == len(m.text) && m.begins(path)
	case bySeparatedPrefix:
		return m.begins(path) && (len(path) == len(m.text) || path[len(m.text)] == '/')
	case byRegex:
		return m.regex.MatchString(path)
	default: // path parameters count in templates
		return m.template.match(pathOf(h.Path, false))
	}
}

func (m *pathMatcher) begins(path string) bool {
	if !m.fold {
		return strings.HasPrefix(path, m.text)
	}
	if len(path) < len(m.text) {
		return false
	}
	for i := range len(m.text) {
		if lowerByte(path[i]) != m.text[i] {
			return false
		}
	}
	return true
}

// matched is how many bytes of a path prefix_rewrite replaces.
func (m *pathMatcher) matched(path string) int {
	switch m.kind {
	case byPrefix, byPath, bySeparatedPrefix:
		return min(len(m.text), len(path))
	default:
		return len(pathOf(path, false))
	}
}

func (m *pathMatcher) why(h *message.Head, path string) string {
	if m.kind == byConnect {
		return fmt.Sprintf("connect_matcher: the method is %q", h.Method)
	}
	if h.Path == "" {
		return "the request has none"
	}
	kind := [...]string{"prefix", "path", "path_separated_prefix", "safe_regex", "uri_template"}[m.kind]
	return fmt.Sprintf("%s %q: it is %q", kind, m.text, path)
}

// pathOf is a path without query and fragment and, if so configured, without
// what comes after a semicolon.
func pathOf(path string, ignoreParameters bool) string {
	for i := range len(path) {
		switch path[i] {
		case '?', '#':
			return path[:i]
		case ';':
			if ignoreParameters {
				return path[:i]
			}
		}
	}
	return path
}
