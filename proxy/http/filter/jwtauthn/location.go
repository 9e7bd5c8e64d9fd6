package jwtauthn

import (
	"net/url"
	"slices"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// Where a token is if a provider does not say it (RFC 6750, sections 2.1 and
// 2.3).
const (
	defaultHeader = "authorization"
	defaultPrefix = "Bearer "
	defaultParam  = "access_token"
)

// places are where the tokens of one or several providers are. They are looked
// at in Envoy's order: headers, parameters, cookies, each by name.
type places struct {
	headers, params, cookies []place
	// sanitize are headers that are ours to write: nobody else may.
	sanitize []string
}

// place is a header with a prefix, a parameter or a cookie.
type place struct {
	name, prefix string
	issuers      []string
	anyIssuer    bool
}

// found is a token at its place.
type found struct {
	raw    string
	place  *place
	remove func(h *message.Head)
}

func placesOf(providers ...*config.JWTProvider) *places {
	out := &places{}
	add := func(list *[]place, name, prefix string, p *config.JWTProvider) {
		i := slices.IndexFunc(*list, func(x place) bool { return x.name == name && x.prefix == prefix })
		if i < 0 {
			*list = append(*list, place{name: name, prefix: prefix})
			i = len(*list) - 1
		}
		at := &(*list)[i]
		at.anyIssuer = at.anyIssuer || p.Issuer == ""
		at.issuers = append(at.issuers, p.Issuer)
	}
	for _, p := range providers {
		for _, h := range p.FromHeaders {
			add(&out.headers, strings.ToLower(h.Name), h.Prefix, p)
		}
		for _, name := range p.FromParams {
			add(&out.params, name, "", p)
		}
		for _, name := range p.FromCookies {
			add(&out.cookies, name, "", p)
		}
		if len(p.FromHeaders)+len(p.FromParams)+len(p.FromCookies) == 0 {
			add(&out.headers, defaultHeader, defaultPrefix, p)
			add(&out.params, defaultParam, "", p)
		}
		if p.ForwardPayloadHeader != "" {
			out.sanitize = append(out.sanitize, strings.ToLower(p.ForwardPayloadHeader))
		}
		for _, c := range p.ClaimToHeaders {
			out.sanitize = append(out.sanitize, strings.ToLower(c[0]))
		}
	}
	for _, list := range [][]place{out.headers, out.params, out.cookies} {
		slices.SortStableFunc(list, func(a, b place) int { return strings.Compare(a.name+a.prefix, b.name+b.prefix) })
	}
	return out
}

// takes reports whether a token of that issuer may be at the place.
func (p *place) takes(issuer string) bool {
	return p.anyIssuer || slices.Contains(p.issuers, issuer)
}

// find are all tokens, the last place first, as Envoy goes through them.
func (p *places) find(h *message.Head) []found {
	var out []found
	for i := range p.headers {
		at := &p.headers[i]
		for _, value := range h.Fields.Values(at.name) {
			if value, ok := afterPrefix(value, at.prefix); ok {
				out = append(out, found{value, at, func(h *message.Head) { h.Fields.Del(at.name) }})
			}
		}
	}
	for i := range p.params {
		at := &p.params[i]
		if value, ok := param(h.Path, at.name); ok {
			out = append(out, found{value, at, func(h *message.Head) { h.Path = withoutParam(h.Path, at.name) }})
		}
	}
	for i := range p.cookies {
		at := &p.cookies[i]
		if value, ok := cookie(h, at.name); ok { // it stays: Envoy does not remove cookies
			out = append(out, found{value, at, func(*message.Head) {}})
		}
	}
	slices.Reverse(out)
	return out
}

// afterPrefix is what is behind the prefix, wherever that is, from the first
// character that can be of a token.
func afterPrefix(value, prefix string) (string, bool) {
	if prefix == "" {
		return value, true
	}
	_, after, ok := strings.Cut(value, prefix)
	if !ok {
		return "", false
	}
	if i := strings.IndexFunc(after, ofToken); i >= 0 {
		return after[i:], true
	}
	return value, true
}

// ofToken is of base64url, or a dot.
func ofToken(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
}

// param is the first parameter of that name, decoded.
func param(path, name string) (string, bool) {
	_, query, _ := strings.Cut(path, "?")
	for one := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(one, "=")
		if one != "" && unescaped(key) == name {
			return unescaped(value), true
		}
	}
	return "", false
}

// withoutParam removes all parameters of that name.
func withoutParam(path, name string) string {
	base, query, ok := strings.Cut(path, "?")
	if !ok {
		return path
	}
	var kept []string
	for one := range strings.SplitSeq(query, "&") {
		if key, _, _ := strings.Cut(one, "="); unescaped(key) != name {
			kept = append(kept, one)
		}
	}
	if len(kept) == 0 {
		return base
	}
	return base + "?" + strings.Join(kept, "&")
}

// unescaped decodes %XX; what is not valid stays as it is.
func unescaped(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

// cookie is the first cookie of that name, without quotes around it.
func cookie(h *message.Head, name string) (string, bool) {
	for i := range h.Fields {
		if h.Fields[i].Name != "cookie" {
			continue
		}
		for one := range strings.SplitSeq(h.Fields[i].Value, ";") {
			key, value, ok := strings.Cut(strings.TrimSpace(one), "=")
			if !ok || key != name {
				continue
			}
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			return value, true
		}
	}
	return "", false
}
