// Package pathnorm makes of a path what it stands for, so that routes and
// authorization see the path that the server will see: RFC 3986 normalization,
// slashes, escaped slashes, and the host without what does not belong to it.
package pathnorm

import (
	"strconv"
	"strings"

	"outrider/proxy/config"
)

// Options are those of the connection manager.
type Options struct {
	Normalize, MergeSlashes bool // normalize_path, merge_slashes
	EscapedSlashes          config.EscapedSlashes
}

// Result is what became of a path.
type Result struct {
	Path string
	// Refused says that the path cannot be normalized; Redirect that the client
	// is to ask for Path.
	Refused, Redirect bool
}

// Path normalizes a path with its query, which stays as it is. A fragment is
// taken away.
func Path(path string, o Options) Result {
	if i := strings.IndexByte(path, '#'); i >= 0 {
		path = path[:i]
	}
	query := ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	redirect := false
	if o.EscapedSlashes != config.SlashesKeep && hasEscapedSlash(path) {
		if o.EscapedSlashes == config.SlashesReject {
			return Result{Refused: true}
		}
		path = unescapeSlashes(path)
		redirect = o.EscapedSlashes == config.SlashesUnescapeRedirect
	}
	if o.Normalize {
		var ok bool
		if path, ok = normalize(path); !ok {
			return Result{Refused: true}
		}
	}
	if o.MergeSlashes {
		path = mergeSlashes(path)
	}
	return Result{Path: path + query, Redirect: redirect}
}

func hasEscapedSlash(path string) bool {
	for i := 0; i+2 < len(path); i++ {
		if path[i] == '%' && isEscapedSlash(path[i:i+3]) {
			return true
		}
	}
	return false
}

// isEscapedSlash: %2F and %5C, in either case.
func isEscapedSlash(s string) bool {
	return strings.EqualFold(s, "%2f") || strings.EqualFold(s, "%5c")
}

func unescapeSlashes(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && isEscapedSlash(path[i:i+3]) {
			if path[i+1] == '2' {
				b.WriteByte('/')
			} else {
				b.WriteByte('\\')
			}
			i += 2
			continue
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// normalize removes dot segments, makes backslashes slashes and decodes what
// needs no encoding (RFC 3986 section 6.2.2, as browsers do it). It is false
// for an encoding that is broken or hides a NUL.
func normalize(path string) (string, bool) {
	if path == "" || path[0] != '/' {
		return "", false
	}
	if clean(path) {
		return path, true
	}
	decoded, ok := unescape(path)
	if !ok {
		return "", false
	}
	return dotless(decoded), true
}

// clean reports that there is nothing to do.
func clean(path string) bool {
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '%', '\\':
			return false
		case '.':
			if path[i-1] == '/' {
				return false
			}
		}
	}
	return true
}

// unescape decodes unreserved characters and turns backslashes; other
// encodings stay as they are.
func unescape(path string) (string, bool) {
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\':
			b = append(b, '/')
		case c == '%':
			if i+2 >= len(path) {
				return "", false
			}
			hi, lo := unhex(path[i+1]), unhex(path[i+2])
			if hi < 0 || lo < 0 || hi == 0 && lo == 0 {
				return "", false
			}
			if v := byte(hi<<4 | lo); unreserved(v) {
				b = append(b, v)
			} else {
				b = append(b, path[i:i+3]...)
			}
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b), true
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// dotless removes the segments . and .. (RFC 3986 section 5.2.4).
func dotless(path string) string {
	var out []string
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '/' && len(b) > 0 && b[len(b)-1] == '/' {
			continue
		}
		b = append(b, path[i])
	}
	return string(b)
}

// StripPort is a host without its port: without any if port is 0, else only
// without that one.
func StripPort(host string, port uint16) string {
	i := strings.LastIndexByte(host, ':')
	if i <= 0 || strings.IndexByte(host[i:], ']') >= 0 || strings.IndexByte(host, ':') != i && host[i-1] != ']' {
		return host
	}
	if port != 0 && host[i+1:] != strconv.Itoa(int(port)) {
		return host
	}
	return host[:i]
}

// StripTrailingDot is a host without the dot of the root.
func StripTrailingDot(host string) string {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > 0 && host[len(host)-1] != ']' {
		name, port = host[:i], host[i:]
	}
	return strings.TrimSuffix(name, ".") + port
}
