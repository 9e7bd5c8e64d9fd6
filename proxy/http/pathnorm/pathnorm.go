// Package pathnorm makes one form of the many that a request's path and host
// may have, before anybody decides on them (Envoy: normalize_path,
// merge_slashes, path_with_escaped_slashes_action, strip_*_host_*).
package pathnorm

import (
	"strings"

	"outrider/proxy/config"
)

// Options is what is done to a path. Whatever it says, a path with a fragment
// is refused.
type Options struct {
	Normalize      bool // normalize_path
	MergeSlashes   bool // merge_slashes
	EscapedSlashes config.EscapedSlashes
}

// Details are the response code details of a request that is refused, or
// redirected, for its path.
const Details = "path_normalization_failed"

// Result is what became of a path.
type Result struct {
	// Path is the path with its query; as it came if the request is refused.
	Path string
	// Refused says that the request is answered with 400, and Redirect that it
	// is with 307 and Path as its location; both with Details.
	Refused, Redirect bool
}

// Path does with a path what Envoy does, in its order: the fragment, escaped
// slashes, RFC 3986's normal form, double slashes. The query stays as it is.
// Nothing is allocated for a path that stays as it is.
func Path(path string, o Options) Result {
	if strings.IndexByte(path, '#') >= 0 {
		return Result{Path: path, Refused: true}
	}
	out := Result{Path: path}
	plain, query := path, ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		plain, query = path[:i], path[i:]
	}
	was := plain
	if o.EscapedSlashes != config.SlashesKeep {
		unescaped := unescapeSlashes(plain)
		if len(unescaped) != len(plain) {
			out.Refused = o.EscapedSlashes == config.SlashesReject
			out.Redirect = o.EscapedSlashes == config.SlashesUnescapeRedirect
		}
		plain = unescaped
	}
	if o.Normalize && !out.Refused {
		normal, ok := canonical(plain)
		out.Refused, plain = !ok, normal
	}
	if out.Refused {
		return Result{Path: path, Refused: true}
	}
	if o.MergeSlashes {
		plain = mergeSlashes(plain)
	}
	if plain != was {
		out.Path = plain + query
	}
	return out
}

// unescapeSlashes decodes escaped slashes and backslashes.
func unescapeSlashes(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if c, ok := unescape(s, i); ok && (c == '/' || c == '\\') {
			out = append(out, c)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// mergeSlashes makes one slash of several. Of nothing but slashes Envoy leaves
// two.
func mergeSlashes(s string) string {
	if !strings.Contains(s, "//") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '/' && i > 0 && s[i-1] == '/' {
			continue
		}
		out = append(out, s[i])
	}
	if len(out) == 1 {
		return "//"
	}
	return string(out)
}

// unescape is the byte that the escape sequence at s[i] stands for; false if
// there is none.
func unescape(s string, i int) (byte, bool) {
	if s[i] != '%' || i+2 >= len(s) {
		return 0, false
	}
	high, ok := hex(s[i+1])
	low, ok2 := hex(s[i+2])
	return high<<4 | low, ok && ok2
}

func hex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
