package localratelimit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

// hour is a bucket of one token that does not come back in a test.
var hour = config.TokenBucket{Max: 1, PerFill: 1, Interval: time.Hour}

func TestDescriptorsHaveTheirOwnBuckets(t *testing.T) {
	f := factory(t, stats.New(), with(limit(100), func(c *config.LocalRateLimit) {
		c.RateLimits = []config.RateLimit{{Actions: []config.RateAction{{Key: "who", Header: "x-who"}}}}
		c.Descriptors = []config.RateDescriptor{
			{Entries: [][2]string{{"who", "me"}}, Bucket: hour},
			{Entries: [][2]string{{"who", ""}}, Bucket: config.TokenBucket{Max: 2, PerFill: 1, Interval: time.Hour}},
		}
	}))
	for i, c := range []struct {
		who    string
		passes bool
	}{{"me", true}, {"me", false}, {"a", true}, {"a", true}, {"a", false}, {"b", true}, {"", true}, {"", true}, {"", true}} {
		var headers []string
		if c.who != "" {
			headers = []string{"x-who", c.who}
		}
		if got := ask(t, f, nil, headers...).Up.Head != nil; got != c.passes {
			t.Errorf("request %d, of %q, passed: %v, want %v", i, c.who, got, c.passes)
		}
	}
}

func TestTheUsualBucketCountsAsWellUnlessToldOtherwise(t *testing.T) {
	for skip, want := range map[bool]bool{false: false, true: true} {
		f := factory(t, stats.New(), with(limit(0), func(c *config.LocalRateLimit) {
			c.SkipDefault = skip
			c.RateLimits = []config.RateLimit{{Actions: []config.RateAction{{Key: "k", Generic: true, Value: "v"}}}}
			c.Descriptors = []config.RateDescriptor{{Entries: [][2]string{{"k", "v"}}, Bucket: hour}}
		}))
		if got := ask(t, f, nil).Up.Head != nil; got != want {
			t.Errorf("skip the default: %v, passed: %v, want %v", skip, got, want)
		}
	}
}

func TestTheStrictestDescriptorRefusesBeforeOthersLoseTokens(t *testing.T) {
	l := newLimiter(&config.LocalRateLimit{Descriptors: []config.RateDescriptor{
		{Entries: [][2]string{{"a", "1"}}, Bucket: config.TokenBucket{Max: 1, PerFill: 1, Interval: time.Minute}},
		{Entries: [][2]string{{"b", "1"}}, Bucket: hour},
	}})
	a, b := descriptor{[][2]string{{"a", "1"}}, 1}, descriptor{[][2]string{{"b", "1"}}, 1}
	if got, told := l.allow([]descriptor{b}); got != allowed || told != l.exact[keyOf(b.entries)] {
		t.Fatal("b has no token")
	}
	if got, told := l.allow([]descriptor{a, b}); got != refused || told != l.exact[keyOf(b.entries)] {
		t.Fatal("b was not asked first")
	}
	if got, _ := l.allow([]descriptor{a}); got != allowed {
		t.Error("a has lost a token to a request that b refused")
	}
}

func TestADescriptorInShadowModeIsOnlyCounted(t *testing.T) {
	reg := stats.New()
	f := factory(t, reg, with(limit(4), func(c *config.LocalRateLimit) {
		c.XRateLimitHeaders = true
		c.RateLimits = []config.RateLimit{
			{Actions: []config.RateAction{{Key: "k", Generic: true, Value: "g"}}},
			{Actions: []config.RateAction{{Key: "w", Header: "x-w"}}},
		}
		slow := config.TokenBucket{Max: 1, PerFill: 1, Interval: 200 * time.Second}
		c.Descriptors = []config.RateDescriptor{
			{Entries: [][2]string{{"k", "g"}}, Bucket: slow, Shadow: true},
			{Entries: [][2]string{{"w", "x"}}, Bucket: config.TokenBucket{Max: 1, PerFill: 1, Interval: 100 * time.Second}},
		}
	}))
	var got []string
	for _, headers := range [][]string{nil, nil, {"x-w", "x"}, {"x-w", "x"}, nil, nil} {
		s := ask(t, f, nil, headers...)
		result := "passed"
		if s.Replied != nil {
			result = "refused"
		} else {
			s.ResponseHead(filtertest.Response(200), true)
		}
		got = append(got, result+" by "+s.Down.Head.Value("x-ratelimit-limit"))
	}
	if diff := cmp.Diff([]string{"passed by 1", "passed by 1", "passed by 1", "refused by 1", "passed by 1", "refused by 4"}, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	want := map[string]uint64{"enabled": 6, "ok": 1, "rate_limited": 5, "enforced": 2, "shadow_mode": 3}
	if diff := cmp.Diff(want, filtertest.Counters(t, reg, "rl.http_local_rate_limit.")); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestValuesOfAWildDescriptorAreForgottenInOrder(t *testing.T) {
	l := newLimiter(&config.LocalRateLimit{MaxDynamic: 2, Descriptors: []config.RateDescriptor{{Entries: [][2]string{{"a", ""}, {"b", "1"}}, Bucket: hour}}})
	take := func(v string) bool {
		got, _ := l.allow([]descriptor{{[][2]string{{"a", v}, {"b", "1"}}, 1}})
		return got == allowed
	}
	var got []bool
	for _, v := range []string{"x", "y", "x", "z", "x", "y"} { // x was used after y, so z takes y's place
		got = append(got, take(v))
	}
	if want := []bool{true, true, false, true, false, true}; !cmp.Equal(got, want) {
		t.Errorf("passed %v, want %v", got, want)
	}
	if n := len(l.wild[0].made); n != 2 {
		t.Errorf("%d buckets, want 2", n)
	}
	if got, told := l.allow([]descriptor{{[][2]string{{"a", "x"}, {"b", "2"}}, 1}}); got != allowed || told != nil {
		t.Error("a descriptor with another fixed value matches")
	}
}

func TestActionsMakeEntries(t *testing.T) {
	match := []config.HeaderMatcher{{Name: "x-a"}}
	present := true
	for name, c := range map[string]struct {
		a    config.RateAction
		want string // "" : no descriptor; "-": one without the entry
	}{
		"source cluster":             {config.RateAction{Key: "k", SourceCluster: true}, "us"},
		"destination cluster":        {config.RateAction{Key: "k", DestinationCluster: true}, "them"},
		"remote address":             {config.RateAction{Key: "k", RemoteAddress: true}, "10.1.2.3"},
		"masked address":             {config.RateAction{Key: "k", Masked: &config.RateMask{V4: 16, V6: 64}}, "10.1.0.0/16"},
		"header":                     {config.RateAction{Key: "k", Header: "x-a"}, "1"},
		"pseudo-header":              {config.RateAction{Key: "k", Header: ":method"}, "GET"},
		"header that is not there":   {config.RateAction{Key: "k", Header: "x-b"}, ""},
		"header that may be missing": {config.RateAction{Key: "k", Header: "x-b", SkipIfAbsent: true}, "-"},
		"query":                      {config.RateAction{Key: "k", Query: "q"}, "1"},
		"query that is empty":        {config.RateAction{Key: "k", Query: "r"}, ""},
		"generic":                    {config.RateAction{Key: "k", Generic: true, Value: "v"}, "v"},
		"generic by format":          {config.RateAction{Key: "k", Generic: true, Value: "m-%REQ(:METHOD)%"}, "m-GET"},
		"generic by empty format":    {config.RateAction{Key: "k", Generic: true, Value: "%REQ(no)%", Default: "d"}, "d"},
		"header match":               {config.RateAction{Key: "k", HeaderMatch: match, Expect: true, Value: "v"}, "v"},
		"header match, unexpected":   {config.RateAction{Key: "k", HeaderMatch: match, Value: "v"}, ""},
		"query match":                {config.RateAction{Key: "k", QueryMatch: []config.QueryMatcher{{Name: "q", String: &certs.StringMatcher{Pattern: "1"}}}, Expect: true, Value: "v"}, "v"},
		"query match of presence":    {config.RateAction{Key: "k", QueryMatch: []config.QueryMatcher{{Name: "z", Present: &present}}, Expect: true, Value: "v"}, ""},
		"query match, not expected":  {config.RateAction{Key: "k", QueryMatch: []config.QueryMatcher{{Name: "z"}}, Value: "v"}, "v"},
		"metadata":                   {config.RateAction{Key: "k", Metadata: &config.RateMetadata{Namespace: "n", Path: []string{"a", "b"}}}, "deep"},
		"metadata that is not there": {config.RateAction{Key: "k", Metadata: &config.RateMetadata{Namespace: "n", Path: []string{"b"}}}, ""},
		"metadata with a default":    {config.RateAction{Key: "k", Metadata: &config.RateMetadata{Namespace: "n", Path: []string{"b"}}, Default: "d"}, "d"},
		"metadata of the route":      {config.RateAction{Key: "k", Metadata: &config.RateMetadata{Namespace: "n", Path: []string{"a"}, Route: true}}, "of the route"},
	} {
		t.Run(name, func(t *testing.T) {
			d := filtertest.Deps(stats.New())
			d.Node = &config.Node{Cluster: "us"}
			makers, err := compileMakers([]config.RateLimit{{Actions: []config.RateAction{c.a}}}, d)
			if err != nil {
				t.Fatal(err)
			}
			s := filtertest.New(t)
			s.ClusterIs = "them"
			s.Info().Remote = flow.Addr{AddrPort: netip.MustParseAddrPort("[::ffff:10.1.2.3]:99")}
			deep, err := structpb.NewValue(map[string]any{"b": "deep"})
			if err != nil {
				t.Fatal(err)
			}
			s.Info().SetMetadata("n", "a", deep)
			s.RouteFound = &config.Route{Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				"n": {Fields: map[string]*structpb.Value{"a": structpb.NewStringValue("of the route")}},
			}}}
			h := filtertest.Request("GET", "/p?q=1&r=&q=2", "x-a", "1", "x-a", "2")
			s.Info().HTTP.Request = h
			got := made(makers, request{s, h}, 0, true)
			var want []descriptor
			switch c.want {
			case "":
			case "-":
				want = []descriptor{{hits: 1}}
			default:
				want = []descriptor{{[][2]string{{"k", c.want}}, 1}}
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(descriptor{})); diff != "" {
				t.Errorf("descriptors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRoutesAndVirtualHostsMakeDescriptors(t *testing.T) {
	generic := func(stage uint32, v string) config.RateLimit {
		return config.RateLimit{Stage: stage, Actions: []config.RateAction{{Key: "k", Generic: true, Value: v}}}
	}
	disabled := generic(0, "disabled")
	disabled.Disabled = true
	hits := uint64(3)
	heavy := generic(0, "heavy")
	heavy.Hits = &hits
	for name, c := range map[string]struct {
		route, host []config.RateLimit
		include     bool
		options     config.VirtualHostRates
		want        string
	}{
		"the route's":                           {route: []config.RateLimit{generic(0, "r"), generic(1, "other stage"), disabled, heavy}, want: "r:1 heavy:3"},
		"the host's if the route has none":      {host: []config.RateLimit{generic(0, "h")}, want: "h:1"},
		"not the host's if the route has":       {route: []config.RateLimit{generic(0, "r")}, host: []config.RateLimit{generic(0, "h")}, want: "r:1"},
		"both if the route says so":             {route: []config.RateLimit{generic(0, "r")}, host: []config.RateLimit{generic(0, "h")}, include: true, want: "r:1 h:1"},
		"both if the filter says so":            {route: []config.RateLimit{generic(0, "r")}, host: []config.RateLimit{generic(0, "h")}, options: config.RatesInclude, want: "r:1 h:1"},
		"never the host's if the filter says":   {host: []config.RateLimit{generic(0, "h")}, options: config.RatesIgnore, want: ""},
		"a route of another stage has some too": {route: []config.RateLimit{generic(1, "r")}, host: []config.RateLimit{generic(0, "h")}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := compile(with(limit(1), func(cfg *config.LocalRateLimit) { cfg.VirtualHosts = c.options }), filtertest.Deps(stats.New()))
			if err != nil {
				t.Fatal(err)
			}
			s := filtertest.New(t)
			s.RouteFound = &config.Route{Action: &config.RouteAction{RateLimits: c.route, IncludeHostRates: c.include}}
			s.Host = &config.VirtualHost{RateLimits: c.host}
			all, err := r.descriptors(s, filtertest.Request("GET", "/"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range all {
				got = append(got, fmt.Sprintf("%s:%d", d.entries[0][1], d.hits))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("descriptors %q, want %q", got, c.want)
			}
		})
	}
}
