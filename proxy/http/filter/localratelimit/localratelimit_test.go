package localratelimit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

const million = 1_000_000

// limit is enforced, with so many tokens that come back every 10 s.
func limit(tokens uint32) *config.LocalRateLimit {
	return &config.LocalRateLimit{
		StatPrefix: "rl", Status: 429, EnabledPPM: million, EnforcedPPM: million,
		Bucket: &config.TokenBucket{Max: tokens, PerFill: 1, Interval: 10 * time.Second},
	}
}

func with(cfg *config.LocalRateLimit, change func(*config.LocalRateLimit)) *config.LocalRateLimit {
	change(cfg)
	return cfg
}

func factory(t testing.TB, reg *stats.Registry, cfg *config.LocalRateLimit) filter.Factory {
	t.Helper()
	d := filtertest.Deps(reg)
	d.Node = &config.Node{Cluster: "us"}
	f, err := New(&config.HTTPFilter{Config: cfg}, d)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ask makes a request and returns its stream.
func ask(t testing.TB, f filter.Factory, prepare func(*filtertest.Stream), headers ...string) *filtertest.Stream {
	t.Helper()
	s := filtertest.New(t)
	if prepare != nil {
		prepare(s)
	}
	s.Start(f).RequestHead(filtertest.Request("GET", "/p?q=1&r=&q=2", headers...), true)
	return s
}

func counters(t *testing.T, reg *stats.Registry) string {
	t.Helper()
	c := filtertest.Counters(t, reg, "rl.http_local_rate_limit.")
	return fmt.Sprintf("enabled %d ok %d rate_limited %d enforced %d", c["enabled"], c["ok"], c["rate_limited"], c["enforced"])
}

func TestRequestsBeyondTheBucketAreRefused(t *testing.T) {
	reg := stats.New()
	f := factory(t, reg, with(limit(2), func(c *config.LocalRateLimit) {
		c.ResponseAdd = []config.HeaderValueOption{{Name: "x-rl", Value: "%REQ(:method)%"}}
	}))
	for i := range 2 {
		if s := ask(t, f, nil); s.Up.Head == nil {
			t.Fatalf("request %d was refused", i)
		}
	}
	want := &filter.Reply{
		Status: 429, Body: "local_rate_limited", Details: "local_rate_limited", Flags: flow.RateLimited,
		Fields: message.Fields{{Name: "x-rl", Value: "GET"}},
	}
	s := ask(t, f, nil)
	if diff := cmp.Diff(want, s.Replied); diff != "" || s.Up.Head != nil {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	if got, want := counters(t, reg), "enabled 3 ok 2 rate_limited 1 enforced 1"; got != want {
		t.Errorf("counters %s, want %s", got, want)
	}
}

func TestTokensComeBackContinuously(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(config.TokenBucket{Max: 3, PerFill: 2, Interval: time.Second}, false)
		for range 3 {
			if !b.take(1) {
				t.Fatal("the bucket was not full")
			}
		}
		if b.take(1) || b.remaining() != 0 {
			t.Fatal("there are more tokens than the maximum")
		}
		time.Sleep(499 * time.Millisecond)
		if b.take(1) {
			t.Error("a token came back too early")
		}
		if w := b.wait(); w < 900*time.Microsecond || w > 1100*time.Microsecond {
			t.Errorf("the next token is in %s, want 1ms", w)
		}
		time.Sleep(time.Millisecond)
		if !b.take(1) || b.take(1) {
			t.Error("after half of a second there is not one token")
		}
		time.Sleep(time.Hour)
		if b.remaining() != 3 || b.take(4) || !b.take(3) || b.take(1) {
			t.Error("after an hour the bucket is not full, or more than full")
		}
	})
}

func TestRequestsAreCountedByChanceAndOnlyThenRefused(t *testing.T) {
	for name, c := range map[string]struct {
		cfg      *config.LocalRateLimit
		random   uint64
		passes   bool
		header   string
		counters string
	}{
		"enabled and enforced":     {cfg: limit(0), counters: "enabled 1 ok 0 rate_limited 1 enforced 1"},
		"not enabled":              {cfg: with(limit(0), func(c *config.LocalRateLimit) { c.EnabledPPM = 10 }), random: 10, passes: true, counters: "enabled 0 ok 0 rate_limited 0 enforced 0"},
		"not enforced":             {cfg: with(limit(0), func(c *config.LocalRateLimit) { c.EnforcedPPM = 10 }), random: 10, passes: true, header: "1", counters: "enabled 1 ok 0 rate_limited 1 enforced 0"},
		"without a bucket":         {cfg: with(limit(0), func(c *config.LocalRateLimit) { c.Bucket = nil }), passes: true, counters: "enabled 1 ok 1 rate_limited 0 enforced 0"},
		"nothing is said of a few": {cfg: &config.LocalRateLimit{StatPrefix: "rl"}, passes: true, counters: "enabled 0 ok 0 rate_limited 0 enforced 0"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			c.cfg.RequestAdd = []config.HeaderValueOption{{Name: "x-limited", Value: "1"}}
			s := ask(t, factory(t, reg, c.cfg), func(s *filtertest.Stream) { s.Random = c.random })
			if got := s.Up.Head != nil; got != c.passes {
				t.Fatalf("passed: %v, want %v", got, c.passes)
			}
			if c.passes && s.Up.Head.Value("x-limited") != c.header {
				t.Errorf("x-limited %q, want %q", s.Up.Head.Value("x-limited"), c.header)
			}
			if got := counters(t, reg); got != c.counters {
				t.Errorf("counters %s, want %s", got, c.counters)
			}
		})
	}
}

func TestHeadersTellOfTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := factory(t, stats.New(), with(limit(2), func(c *config.LocalRateLimit) { c.XRateLimitHeaders, c.RetryAfter = true, true }))
		told := func(s *filtertest.Stream) string {
			if s.Replied == nil {
				s.ResponseHead(filtertest.Response(200), true)
			}
			h := s.Down.Head
			return strings.Join([]string{h.Value("x-ratelimit-limit"), h.Value("x-ratelimit-remaining"), h.Value("x-ratelimit-reset"), h.Value("retry-after")}, " ")
		}
		for i, want := range []string{"2 1 0 ", "2 0 10 ", "2 0 10 10"} {
			if got := told(ask(t, f, nil)); got != want {
				t.Errorf("request %d: %q, want %q", i, got, want)
			}
		}
		time.Sleep(4100 * time.Millisecond)
		if got := told(ask(t, f, nil)); got != "2 0 6 6" {
			t.Errorf("after 4.1s: %q, want 2 0 6 6", got)
		}
		if got := told(ask(t, factory(t, stats.New(), with(limit(0), func(c *config.LocalRateLimit) { c.XRateLimitHeaders = true })), nil)); got != "   " {
			t.Errorf("without tokens at all: %q, want none", got)
		}
		if got := told(ask(t, factory(t, stats.New(), limit(1)), nil)); got != "   " {
			t.Errorf("where they are not asked for: %q, want none", got)
		}
	})
}

func TestHeadersTellOfTheDescriptorFirst(t *testing.T) {
	hits := uint64(3)
	f := factory(t, stats.New(), with(limit(100), func(c *config.LocalRateLimit) {
		c.XRateLimitHeaders, c.RetryAfter = true, true
		c.RateLimits = []config.RateLimit{{Hits: &hits, Actions: []config.RateAction{{Key: "k", Generic: true, Value: "v"}}}}
		c.Descriptors = []config.RateDescriptor{{Entries: [][2]string{{"k", "v"}}, Bucket: config.TokenBucket{Max: 5, PerFill: 1, Interval: time.Hour}}}
	}))
	s := ask(t, f, nil)
	s.ResponseHead(filtertest.Response(200), true)
	if got := s.Down.Head.Value("x-ratelimit-limit") + " " + s.Down.Head.Value("x-ratelimit-remaining"); got != "5 2" {
		t.Errorf("limit and remaining are %q, want 5 2", got)
	}
	if got := ask(t, f, nil).Down.Head.Value("retry-after"); got != "1" { // two tokens are there, three are wanted
		t.Errorf("retry-after %q, want 1", got)
	}
}

func TestGRPCMayBeToldThatItsResourceIsExhausted(t *testing.T) {
	s := ask(t, factory(t, stats.New(), with(limit(0), func(c *config.LocalRateLimit) { c.GRPCResourceExhausted = true })), nil)
	if s.Replied == nil || s.Replied.GRPC == nil || *s.Replied.GRPC != 8 {
		t.Errorf("replied %+v, want gRPC status 8", s.Replied)
	}
}

func TestEachConnectionMayHaveItsOwnBucket(t *testing.T) {
	f := factory(t, stats.New(), with(limit(1), func(c *config.LocalRateLimit) { c.PerConnection = true }))
	one, two := &flow.Info{ID: 1}, &flow.Info{ID: 2}
	on := func(c *flow.Info) bool {
		return ask(t, f, func(s *filtertest.Stream) { s.Info().HTTP.Connection = c }).Up.Head != nil
	}
	if got := []bool{on(one), on(one), on(two), on(two)}; !cmp.Equal(got, []bool{true, false, true, false}) {
		t.Errorf("passed %v, want the first of each connection", got)
	}
}

func TestARouteHasItsOwnBucket(t *testing.T) {
	reg := stats.New()
	f := factory(t, reg, limit(0))
	route := &config.FilterOverride{Config: with(limit(1), func(c *config.LocalRateLimit) { c.StatPrefix = "route" })}
	over := func(o *config.FilterOverride) *filtertest.Stream {
		return ask(t, f, func(s *filtertest.Stream) { s.Overriding = []*config.FilterOverride{o} })
	}
	if over(route).Up.Head == nil || over(route).Up.Head != nil {
		t.Error("the route's bucket has not one token")
	}
	if got := filtertest.Counters(t, reg, "route.http_local_rate_limit.")["enabled"]; got != 2 {
		t.Errorf("the route's enabled is %d, want 2", got)
	}
	none := with(limit(1), func(c *config.LocalRateLimit) { c.Bucket = nil })
	if s := over(&config.FilterOverride{Config: none}); s.Replied == nil || s.Replied.Status != 500 {
		t.Errorf("a route without a bucket got %+v, want 500", s.Replied)
	}
}

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

func TestMistakesAreAllReported(t *testing.T) {
	fast := config.TokenBucket{Max: 1, PerFill: 1, Interval: time.Millisecond}
	same := config.RateDescriptor{Entries: [][2]string{{"a", "b"}}, Bucket: hour}
	_, err := New(&config.HTTPFilter{Config: &config.LocalRateLimit{
		Bucket: &fast, Descriptors: []config.RateDescriptor{same, same, {Bucket: fast}},
		RateLimits:  []config.RateLimit{{Actions: []config.RateAction{{}, {Generic: true, Value: "%NO_SUCH%"}, {HeaderMatch: []config.HeaderMatcher{{}}}}}},
		RequestAdd:  []config.HeaderValueOption{{}},
		ResponseAdd: []config.HeaderValueOption{{}},
	}}, filtertest.Deps(stats.New()))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"token_bucket.fill_interval: 1ms", "descriptors[1]: [[a b]] is there already", "descriptors[2].token_bucket",
		"rate_limits[0].actions[0]: no action", "actions[1]: descriptor_value", "actions[2]: headers[0]",
		"request_headers_to_add_when_not_enforced[0]", "response_headers_to_add[0]",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestConcurrentRequestsTakeEachTokenOnce(t *testing.T) {
	b := newBucket(config.TokenBucket{Max: 1000, PerFill: 1, Interval: time.Hour}, false)
	taken := make(chan int)
	for range 4 {
		go func() {
			n := 0
			for range 500 {
				if b.take(1) {
					n++
				}
			}
			taken <- n
		}()
	}
	total := 0
	for range 4 {
		total += <-taken
	}
	if total != 1000 {
		t.Errorf("%d tokens were taken, want 1000", total)
	}
}

func BenchmarkRequestHead(b *testing.B) {
	f := factory(b, stats.New(), limit(1<<31))
	s := filtertest.New(b)
	h := filtertest.Request("GET", "/")
	b.ReportAllocs()
	for b.Loop() {
		if f.New(s).RequestHead(h, true) != filter.Continue {
			b.Fatal("refused")
		}
	}
}

func BenchmarkBucketByAllCores(b *testing.B) {
	bucket := newBucket(config.TokenBucket{Max: 1 << 31, PerFill: 1 << 31, Interval: time.Second}, false)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			bucket.take(1)
		}
	})
}
