package decode

import (
	"slices"
	"strings"
	"testing"

	"outrider/certs"
)

func TestStatsConfigIsDecoded(t *testing.T) {
	boot, err := Bootstrap([]byte(`
stats_config:
  use_all_default_tags: false
  stats_tags:
  - {tag_name: cluster_name, regex: '^cluster(\.(.+);)'}
  - {tag_name: http_conn_manager_listener_prefix, regex: '^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)'}
  - {tag_name: zone, fixed_value: z1}
  histogram_bucket_settings: [{match: {prefix: istiocustom}, buckets: [10, 0.5]}]
  stats_matcher: {inclusion_list: {patterns: [{prefix: istio}, {safe_regex: {regex: "a.*"}}]}}
`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := boot.Stats
	if !s.OwnTagsOnly || len(s.Tags) != 3 || s.Tags[2].Name != "zone" || s.Tags[2].Fixed != "z1" || s.Tags[2].Regex != nil {
		t.Fatalf("%+v", s)
	}
	for name, want := range map[string]string{"listener.0.0.0.0_80.http.10.0.0.1.downstream": "10.0.0.1", "listener.http.1.x": "1", "listenerx.http.1.x": ""} {
		got := ""
		if m := s.Tags[1].Regex.FindStringSubmatch(name); m != nil {
			got = m[2]
		}
		if got != want {
			t.Errorf("the tag of %s is %q, want %q", name, got, want)
		}
	}
	if b := s.Buckets; len(b) != 1 || !b[0].Match.Match("istiocustom.x") || !slices.Equal(b[0].Bounds, []float64{0.5, 10}) {
		t.Errorf("%+v", b)
	}
	if m := s.Matcher; len(m.Include) != 2 || m.Include[0].Kind != certs.MatchPrefix || !m.Include[1].Match("abc") || m.Exclude != nil || m.RejectAll {
		t.Errorf("%+v", m)
	}
}

func TestStatsThatAreAllLeftOutAreDecoded(t *testing.T) {
	for text, check := range map[string]func(reject bool, include, exclude []certs.StringMatcher) bool{
		"{reject_all: true}":                          func(r bool, i, e []certs.StringMatcher) bool { return r && i == nil && e == nil },
		"{exclusion_list: {patterns: [{suffix: x}]}}": func(r bool, i, e []certs.StringMatcher) bool { return !r && i == nil && len(e) == 1 },
	} {
		boot, err := Bootstrap([]byte("stats_config: {stats_matcher: "+text+"}"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if m := boot.Stats.Matcher; boot.Stats.OwnTagsOnly || !check(m.RejectAll, m.Include, m.Exclude) {
			t.Errorf("%s is %+v", text, m)
		}
	}
}

func TestMistakesInStatsConfigAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{histogram_bucket_settings: [{match: {prefix: a}, buckets: [1, 1]}]}": "stats_config.histogram_bucket_settings[0].buckets[1]: 1: repeated",
		"{histogram_bucket_settings: [{match: {prefix: a}, buckets: [0]}]}":    "stats_config.histogram_bucket_settings[0].buckets[0]: 0: value must be greater",
		"{histogram_bucket_settings: [{match: {prefix: a}, buckets: [NaN]}]}":  "stats_config.histogram_bucket_settings[0].buckets: NaN is no number",
		"{histogram_bucket_settings: [{match: {prefix: a}}]}":                  "stats_config.histogram_bucket_settings[0].buckets: ",
		"{histogram_bucket_settings: [{buckets: [1]}]}":                        "stats_config.histogram_bucket_settings[0].match: ",
		"{stats_tags: [{regex: (a)}]}":                                         "stats_config.stats_tags[0].tag_name: is empty",
		"{stats_tags: [{tag_name: a}]}":                                        "stats_config.stats_tags[0].regex: is empty",
		"{stats_tags: [{tag_name: a, regex: a}]}":                              "stats_config.stats_tags[0].regex: \"a\" has no group",
		"{stats_tags: [{tag_name: a, regex: '(?!a)(b)'}]}":                     "stats_config.stats_tags[0].regex: \"(?!a)(b)\": error parsing",
		"{stats_matcher: {inclusion_list: {patterns: [{}]}}}":                  "stats_config.stats_matcher.inclusion_list.patterns[0]: ",
		"{stats_matcher: {exclusion_list: {patterns: [{prefix: a}, {}]}}}":     "stats_config.stats_matcher.exclusion_list.patterns[1]: ",
	} {
		if _, err := Bootstrap([]byte("stats_config: "+text), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
