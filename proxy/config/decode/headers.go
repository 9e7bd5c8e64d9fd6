package decode

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"outrider/certs"
	"outrider/proxy/config"
)

// headerChanges is what the messages have that add and remove headers.
type headerChanges interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToRemove() []string
}

func (d *decoder) headerOps(c headerChanges, place at) config.HeaderOps {
	return config.HeaderOps{
		RequestAdd:     d.headersToAdd(c.GetRequestHeadersToAdd(), "request_headers_to_add", place),
		ResponseAdd:    d.headersToAdd(c.GetResponseHeadersToAdd(), "response_headers_to_add", place),
		RequestRemove:  headersToRemove(c.GetRequestHeadersToRemove(), "request_headers_to_remove", place),
		ResponseRemove: headersToRemove(c.GetResponseHeadersToRemove(), "response_headers_to_remove", place),
	}
}

func (d *decoder) headersToAdd(list []*corev3.HeaderValueOption, name string, place at) []config.HeaderValueOption {
	var out []config.HeaderValueOption
	for i, h := range list {
		out = append(out, d.headerToAdd(h, place.item(name, i)))
	}
	return out
}

func (d *decoder) headerToAdd(h *corev3.HeaderValueOption, place at) config.HeaderValueOption {
	pair := header(h.GetHeader(), place.in("header"))
	out := config.HeaderValueOption{
		Name:      pair[0],
		Value:     d.format(pair[1], place.in("header").in("value")),
		Action:    config.HeaderAction(h.GetAppendAction()),
		KeepEmpty: h.GetKeepEmptyValue(),
	}
	if !changeable(out.Name) {
		place.in("header").in("key").bad("%q: pseudo-headers and host may not be changed here", shorten(out.Name))
	}
	if h.GetAppend() == nil {
		return out
	}
	if h.GetAppendAction() != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
		place.in("append").bad("cannot be set together with append_action")
	}
	out.Action = config.HeaderAppend
	if !h.GetAppend().GetValue() {
		out.Action = config.HeaderOverwrite
	}
	return out
}

// header is a name, in lower case, and its value, which is text or bytes.
func header(h *corev3.HeaderValue, place at) [2]string {
	value := h.GetValue()
	if len(h.GetRawValue()) > 0 {
		if value != "" {
			place.in("raw_value").bad("cannot be set together with value")
		}
		value = string(h.GetRawValue())
	}
	return [2]string{strings.ToLower(h.GetKey()), value}
}

func headersToRemove(list []string, name string, place at) []string {
	for i, h := range list {
		if !changeable(strings.ToLower(h)) {
			place.item(name, i).bad("%q: pseudo-headers and host may not be removed", shorten(h))
		}
	}
	return lowered(list)
}

// changeable reports whether a header may be added and removed: what decides
// where a request goes has fields of its own.
func changeable(name string) bool { return !strings.HasPrefix(name, ":") && name != "host" }

// lowered is lower, with nil for nothing.
func lowered(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return lower(list)
}

func (d *decoder) headerMatchers(list []*routev3.HeaderMatcher, name string, place at) []config.HeaderMatcher {
	var out []config.HeaderMatcher
	for i, m := range list {
		out = append(out, d.headerMatcher(m, place.item(name, i)))
	}
	return out
}

func (d *decoder) headerMatcher(m *routev3.HeaderMatcher, place at) config.HeaderMatcher {
	out := config.HeaderMatcher{
		Name:           strings.ToLower(m.GetName()),
		Invert:         m.GetInvertMatch(),
		MissingAsEmpty: m.GetTreatMissingHeaderAsEmpty(),
	}
	text := func(kind certs.StringMatchKind, pattern string) {
		out.String = &certs.StringMatcher{Kind: kind, Pattern: pattern}
	}
	switch v := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_ExactMatch:
		text(certs.MatchExact, v.ExactMatch)
	case *routev3.HeaderMatcher_PrefixMatch:
		text(certs.MatchPrefix, v.PrefixMatch)
	case *routev3.HeaderMatcher_SuffixMatch:
		text(certs.MatchSuffix, v.SuffixMatch)
	case *routev3.HeaderMatcher_ContainsMatch:
		text(certs.MatchContains, v.ContainsMatch)
	case *routev3.HeaderMatcher_SafeRegexMatch:
		text(certs.MatchRegex, v.SafeRegexMatch.GetRegex())
		out.String.Regex = regex(v.SafeRegexMatch.GetRegex(), place.in("safe_regex_match").in("regex"))
	case *routev3.HeaderMatcher_StringMatch:
		out.String = d.stringMatcher(v.StringMatch, place.in("string_match"))
	case *routev3.HeaderMatcher_RangeMatch:
		out.Range = &config.Range64{Start: v.RangeMatch.GetStart(), End: v.RangeMatch.GetEnd()}
		if v.RangeMatch.GetStart() >= v.RangeMatch.GetEnd() {
			place.in("range_match").bad("[%d, %d) holds no number", v.RangeMatch.GetStart(), v.RangeMatch.GetEnd())
		}
	case *routev3.HeaderMatcher_PresentMatch:
		out.Present = &v.PresentMatch
	}
	return out
}
