package h1

import (
	"strings"

	"outrider/proxy/http/message"
)

// Limits of Envoy on what a Connection field may nominate.
const (
	maxNominated = 10
	maxTE        = 256 // bytes
)

// dropUpgrade makes an ordinary request of one that asks for an upgrade.
func dropUpgrade(h *message.Head, connection string) {
	h.Fields.Del("upgrade")
	h.Fields.Del("http2-settings")
	setConnection(h, connection, func(token string) bool {
		return !equalFold(token, "upgrade") && !equalFold(token, "http2-settings")
	})
}

// setConnection keeps those tokens of a Connection field that keep says.
func setConnection(h *message.Head, value string, keep func(token string) bool) {
	var kept []string
	for value != "" {
		var token string
		if token, value = nextToken(value); token != "" && keep(token) {
			kept = append(kept, token)
		}
	}
	if len(kept) == 0 {
		h.Fields.Del("connection")
		return
	}
	h.Fields.Set("connection", strings.Join(kept, ","))
}

// sanitizeConnection removes the fields that Connection nominates, and refuses
// what Envoy refuses: many of them, pseudo-headers, and those that say where a
// request came from.
func sanitizeConnection(h *message.Head, value string) *mistake {
	if value == "" || equalFold(value, "close") || equalFold(value, "keep-alive") {
		return nil
	}
	tokens := 0
	removed := false
	for list := value; list != ""; {
		var token string
		if token, list = nextToken(list); token == "" {
			continue
		}
		tokens++
		if ofConnection(token) {
			continue
		}
		name := strings.ToLower(token)
		if name[0] == ':' || name == "x-forwarded-for" || name == "x-forwarded-host" || name == "x-forwarded-proto" {
			return refused(400, detailConnection, "connection nominates %q", name)
		}
		gone, m := nominated(h, name)
		if m != nil {
			return m
		}
		removed = removed || gone
	}
	if tokens >= maxNominated {
		return refused(400, detailConnection, "connection nominates %d fields", tokens)
	}
	if removed {
		setConnection(h, value, func(token string) bool {
			return ofConnection(token) || equalFold(token, "te") && h.Fields.Has("te")
		})
	}
	return nil
}

// ofConnection reports whether a token is about the connection itself.
func ofConnection(token string) bool {
	return equalFold(token, "close") || equalFold(token, "keep-alive") || equalFold(token, "upgrade") ||
		equalFold(token, "http2-settings")
}

// nominated removes a field, but for TE: trailers. It reports whether the
// token is to go as well.
func nominated(h *message.Head, name string) (bool, *mistake) {
	switch name {
	case "connection":
		return true, nil
	case "host":
		h.Authority = ""
		return true, nil
	case "te":
		te, ok := h.Fields.Get("te")
		if len(te) >= maxTE {
			return false, refused(400, detailConnection, "te of %d bytes", len(te))
		}
		if ok && hasToken(te, "trailers") {
			h.Fields.Set("te", "trailers")
			return false, nil
		}
	}
	h.Fields.Del(name)
	return true, nil
}
