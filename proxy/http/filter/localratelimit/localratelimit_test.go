package localratelimit

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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
