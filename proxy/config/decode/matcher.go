package decode

import (
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"outrider/certs"
	"outrider/proxy/config"
)

func (d *decoder) stringMatcher(m *matcherv3.StringMatcher, place at) *certs.StringMatcher {
	out := &certs.StringMatcher{IgnoreCase: m.GetIgnoreCase()}
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		out.Kind, out.Pattern = certs.MatchExact, v.Exact
	case *matcherv3.StringMatcher_Prefix:
		out.Kind, out.Pattern = certs.MatchPrefix, v.Prefix
	case *matcherv3.StringMatcher_Suffix:
		out.Kind, out.Pattern = certs.MatchSuffix, v.Suffix
	case *matcherv3.StringMatcher_Contains:
		out.Kind, out.Pattern = certs.MatchContains, v.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		out.Kind, out.Pattern = certs.MatchRegex, v.SafeRegex.GetRegex()
		re, err := certs.CompileRegex(out.Pattern)
		if err != nil {
			place.in("safe_regex").in("regex").bad("%q: %v", shorten(out.Pattern), err)
		}
		out.Regex = re
	default:
		place.bad("one of exact, prefix, suffix, safe_regex, contains must be set")
	}
	return out
}

func (d *decoder) metadataMatcher(m *matcherv3.MetadataMatcher, place at) *config.MetadataMatcher {
	out := &config.MetadataMatcher{Filter: m.GetFilter(), Invert: m.GetInvert()}
	for _, segment := range m.GetPath() {
		out.Path = append(out.Path, segment.GetKey())
	}
	out.Value = d.valueMatcher(m.GetValue(), place.in("value"))
	return out
}

func (d *decoder) valueMatcher(m *matcherv3.ValueMatcher, place at) config.ValueMatcher {
	var out config.ValueMatcher
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		out.Null = true
	case *matcherv3.ValueMatcher_DoubleMatch:
		out.Number = &config.NumberMatcher{Start: v.DoubleMatch.GetRange().GetStart(), End: v.DoubleMatch.GetRange().GetEnd()}
		if exact, ok := v.DoubleMatch.GetMatchPattern().(*matcherv3.DoubleMatcher_Exact); ok {
			out.Number.Exact = &exact.Exact
		}
	case *matcherv3.ValueMatcher_StringMatch:
		out.String = d.stringMatcher(v.StringMatch, place.in("string_match"))
	case *matcherv3.ValueMatcher_BoolMatch:
		out.Bool = &v.BoolMatch
	case *matcherv3.ValueMatcher_PresentMatch:
		out.Present = &v.PresentMatch
	case *matcherv3.ValueMatcher_ListMatch:
		one := d.valueMatcher(v.ListMatch.GetOneOf(), place.in("list_match").in("one_of"))
		out.ListOne = &one
	case *matcherv3.ValueMatcher_OrMatch:
		for i, m := range v.OrMatch.GetValueMatchers() {
			out.Or = append(out.Or, d.valueMatcher(m, place.in("or_match").item("value_matchers", i)))
		}
	default:
		place.bad("has no match pattern")
	}
	return out
}
