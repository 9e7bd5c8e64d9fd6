package extauthz

import (
	"net/url"
	"strings"
)

// unescaped decodes %XX; what is not valid stays as it is.
func unescaped(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

// escaped encodes what would end a parameter, or the request line.
func escaped(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}
