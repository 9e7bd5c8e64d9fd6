package decode

import (
	"math"
	"regexp"
	"slices"
	"strings"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"outrider/certs"
	"outrider/proxy/config"
)

func (d *decoder) stats(c *metricsv3.StatsConfig, place at) config.StatsConfig {
	out := config.StatsConfig{OwnTagsOnly: c.GetUseAllDefaultTags() != nil && !c.GetUseAllDefaultTags().GetValue()}
	for i, t := range c.GetStatsTags() {
		out.Tags = append(out.Tags, statsTag(t, place.item("stats_tags", i)))
	}
	for i, b := range c.GetHistogramBucketSettings() {
		out.Buckets = append(out.Buckets, d.buckets(b, place.item("histogram_bucket_settings", i)))
	}
	place = place.in("stats_matcher")
	switch m := c.GetStatsMatcher().GetStatsMatcher().(type) {
	case *metricsv3.StatsMatcher_RejectAll:
		out.Matcher.RejectAll = m.RejectAll
	case *metricsv3.StatsMatcher_ExclusionList:
		out.Matcher.Exclude = d.patterns(m.ExclusionList, place.in("exclusion_list"))
	case *metricsv3.StatsMatcher_InclusionList:
		out.Matcher.Include = d.patterns(m.InclusionList, place.in("inclusion_list"))
	}
	return out
}

func (d *decoder) buckets(b *metricsv3.HistogramBucketSettings, place at) config.HistogramBuckets {
	out := config.HistogramBuckets{Match: *d.stringMatcher(b.GetMatch(), place.in("match")), Bounds: slices.Sorted(slices.Values(b.GetBuckets()))}
	if slices.ContainsFunc(out.Bounds, math.IsNaN) { // the rules of the message let it through
		place.in("buckets").bad("NaN is no number")
	}
	if len(out.Bounds) == 0 {
		place.in("buckets").bad("is empty")
	}
	return out
}

// patterns are not nil, whatever is in the list.
func (d *decoder) patterns(list *matcherv3.ListStringMatcher, place at) []certs.StringMatcher {
	return append([]certs.StringMatcher{}, d.stringMatchers(list.GetPatterns(), "patterns", place)...)
}

func statsTag(t *metricsv3.TagSpecifier, place at) config.StatsTag {
	out := config.StatsTag{Name: t.GetTagName(), Fixed: t.GetFixedValue()}
	if out.Name == "" {
		place.in("tag_name").bad("is empty")
	}
	if _, fixed := t.GetTagValue().(*metricsv3.TagSpecifier_FixedValue); fixed {
		return out
	}
	place = place.in("regex")
	if t.GetRegex() == "" {
		place.bad("is empty: there are no expressions of Envoy's own here")
		return out
	}
	re, err := regexp.Compile(withoutLookahead(t.GetRegex()))
	switch {
	case err != nil:
		place.bad("%q: %v", shorten(t.GetRegex()), err)
	case re.NumSubexp() == 0:
		place.bad("%q has no group, and takes nothing out of a name", shorten(t.GetRegex()))
	}
	out.Regex = re
	return out
}

// withoutLookahead rewrites what Envoy's own expressions and Istio's have in
// place of a prefix, which RE2 does not have: a dot must follow, and there may be
// anything up to the next one.
func withoutLookahead(re string) string {
	return strings.ReplaceAll(re, `(?=\.).*?\.`, `(?:\..*?)?\.`)
}
