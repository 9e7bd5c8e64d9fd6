package decode

import (
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs"
	"outrider/proxy/config"
)

func (d *decoder) routeMatch(m *routev3.RouteMatch, place at) config.RouteMatch {
	out := config.RouteMatch{
		IgnoreCase: !truth(m.GetCaseSensitive(), true),
		Headers:    d.headerMatchers(m.GetHeaders(), "headers", place),
		GRPC:       m.GetGrpc() != nil,
	}
	d.pathMatch(m, &out, place)
	if f := m.GetRuntimeFraction(); f != nil {
		out.RuntimePPM, out.RuntimeKey = d.fraction(f), f.GetRuntimeKey()
	}
	out.Query = d.queryMatchers(m.GetQueryParameters(), place)
	for i, c := range m.GetCookies() {
		out.Cookies = append(out.Cookies, config.CookieMatcher{
			Name: c.GetName(), Invert: c.GetInvertMatch(),
			String: d.stringMatcher(c.GetStringMatch(), place.item("cookies", i).in("string_match")),
		})
	}
	if t := m.GetTlsContext(); t != nil {
		out.TLSPresented, out.TLSValidated = maybeTruth(t.GetPresented()), maybeTruth(t.GetValidated())
	}
	for i, one := range m.GetDynamicMetadata() {
		out.Metadata = append(out.Metadata, *d.metadataMatcher(one, place.item("dynamic_metadata", i)))
	}
	for i, one := range m.GetFilterState() {
		out.FilterState = append(out.FilterState, *d.filterState(one, place.item("filter_state", i)))
	}
	return out
}

func (d *decoder) queryMatchers(list []*routev3.QueryParameterMatcher, place at) []config.QueryMatcher {
	var out []config.QueryMatcher
	for i, q := range list {
		one := config.QueryMatcher{Name: q.GetName()}
		switch v := q.GetQueryParameterMatchSpecifier().(type) {
		case *routev3.QueryParameterMatcher_StringMatch:
			one.String = d.stringMatcher(v.StringMatch, place.item("query_parameters", i).in("string_match"))
		case *routev3.QueryParameterMatcher_PresentMatch:
			one.Present = &v.PresentMatch
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) pathMatch(m *routev3.RouteMatch, out *config.RouteMatch, place at) {
	switch v := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.Prefix = &v.Prefix
	case *routev3.RouteMatch_Path:
		out.Path = &v.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.PathSeparatedPrefix = &v.PathSeparatedPrefix
	case *routev3.RouteMatch_SafeRegex:
		out.Regex = v.SafeRegex.GetRegex()
		regex(out.Regex, place.in("safe_regex").in("regex"))
	case *routev3.RouteMatch_ConnectMatcher_:
		out.Connect = true
	case *routev3.RouteMatch_PathMatchPolicy:
		out.Template = d.uriTemplate(v.PathMatchPolicy, place.in("path_match_policy"))
	}
}

// fraction is the share of requests that f takes, per million. The runtime has
// the first word.
func (d *decoder) fraction(f *corev3.RuntimeFractionalPercent) *uint32 {
	share := d.runtimeShare(f.GetRuntimeKey(), f.GetDefaultValue(), ppm(f.GetDefaultValue()))
	return &share
}

// maybeTruth is v, nil if it is unset.
func maybeTruth(v *wrapperspb.BoolValue) *bool {
	if v == nil {
		return nil
	}
	is := v.GetValue()
	return &is
}

// regex compiles text as Envoy does: RE2, of the whole string.
func regex(text string, place at) *regexp.Regexp {
	re, err := certs.CompileRegex(text)
	if err != nil {
		place.bad("%q: %v", shorten(text), err)
	}
	return re
}

// uriTemplate is the template in e, an extension.
func (d *decoder) uriTemplate(e *corev3.TypedExtensionConfig, place at) string {
	in := place.in("typed_config")
	c, ok := d.open(anyOf(e, in), in).(*templatev3.UriTemplateMatchConfig)
	if !ok {
		in.bad("extension %q is not supported by outrider for paths", shorten(e.GetName()))
		return ""
	}
	if _, err := templateVariables(c.GetPathTemplate()); err != nil {
		in.in("path_template").bad("%q: %v", shorten(c.GetPathTemplate()), err)
	}
	return c.GetPathTemplate()
}

// regexRewrite checks that the groups that the substitution names are in the
// expression.
func (d *decoder) regexRewrite(r *matcherv3.RegexMatchAndSubstitute, place at) *config.RegexRewrite {
	out := &config.RegexRewrite{Pattern: r.GetPattern().GetRegex(), Substitution: r.GetSubstitution()}
	re, err := regexp.Compile(out.Pattern)
	if err != nil {
		place.in("pattern").in("regex").bad("%q: %v", shorten(out.Pattern), err)
		return out
	}
	in := place.in("substitution")
	for rest := out.Substitution; ; {
		_, after, found := strings.Cut(rest, `\`)
		switch {
		case !found:
			return out
		case after == "" || after[0] != '\\' && (after[0] < '0' || after[0] > '9'):
			in.bad("%q: a backslash stands before a digit or a backslash", shorten(out.Substitution))
			return out
		case after[0] != '\\' && int(after[0]-'0') > re.NumSubexp():
			in.bad("%q: the expression has no group %c", shorten(out.Substitution), after[0])
			return out
		}
		rest = after[1:]
	}
}
