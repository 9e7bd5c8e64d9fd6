package pathnorm

import (
	"strconv"
	"strings"
)

// PortStart is where the port of an authority begins, with its colon; -1 if it
// has none.
func PortStart(authority string) int {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.LastIndexByte(authority, ']') > i {
		return -1
	}
	return i
}

// StripPort is an authority without its port, if that is port; 0 is any. What
// was taken away is in stripped, without the colon: CONNECT needs it upstream.
func StripPort(authority string, port uint16) (host, stripped string) {
	i := PortStart(authority)
	if i < 0 {
		return authority, ""
	}
	n, err := strconv.ParseUint(authority[i+1:], 10, 32)
	if err != nil || port != 0 && n != uint64(port) {
		return authority, ""
	}
	return authority[:i], authority[i+1:]
}

// StripTrailingDot is an authority without the dot at the end of its host.
func StripTrailingDot(authority string) string {
	host, port := authority, ""
	if i := PortStart(authority); i >= 0 {
		host, port = authority[:i], authority[i:]
	}
	if bare, ok := strings.CutSuffix(host, "."); ok {
		return bare + port
	}
	return authority
}
