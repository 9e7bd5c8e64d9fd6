package stats

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func record(h *Histogram, counts map[uint64]int) {
	for v, n := range counts {
		for range n {
			h.Record(v)
		}
	}
}

// The numbers are what Envoy 1.40 printed for the same values.
func TestQuantilesAreEnvoys(t *testing.T) {
	cases := []struct {
		name   string
		counts map[uint64]int
		want   string
	}{
		{"nothing", nil, " No recorded values"},
		{"one value", map[uint64]int{14: 1}, " P0(nan,14.5) P25(nan,14.5) P50(nan,14.5) P75(nan,14.5) P90(nan,14.5) P95(nan,14.5) P99(nan,14.5) P99.5(nan,14.5) P99.9(nan,14.5) P100(nan,14.5)"},
		{"zeros and one bin", map[uint64]int{0: 9, 20: 8}, " P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,20.444444444444443) P90(nan,20.77777777777778) P95(nan,20.88888888888889) P99(nan,20.88888888888889) P99.5(nan,20.88888888888889) P99.9(nan,20.88888888888889) P100(nan,20.88888888888889)"},
		{"two bins", map[uint64]int{0: 9, 20: 7, 21: 1}, " P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,20.5) P90(nan,20.875) P95(nan,21.5) P99(nan,21.5) P99.5(nan,21.5) P99.9(nan,21.5) P100(nan,21.5)"},
		{"tenths", map[uint64]int{1: 122}, " P0(nan,1.0008130081300812) P25(nan,1.0252032520325203) P50(nan,1.0495934959349593) P75(nan,1.0747967479674796) P90(nan,1.089430894308943) P95(nan,1.0943089430894308) P99(nan,1.0983739837398374) P99.5(nan,1.0991869918699186) P99.9(nan,1.0991869918699186) P100(nan,1.0991869918699186)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var h Histogram
			record(&h, c.counts)
			if got := h.shown(Unset); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestBucketModesAreEnvoys(t *testing.T) {
	var h Histogram
	record(&h, map[uint64]int{0: 9, 20: 8})
	for mode, want := range map[Buckets]string{
		Cumulative: " B0.5(0,9) B1(0,9) B5(0,9) B10(0,9) B25(0,17) B50(0,17) B100(0,17) B250(0,17) B500(0,17) B1000(0,17) B2500(0,17) B5000(0,17) B10000(0,17) B30000(0,17) B60000(0,17) B300000(0,17) B600000(0,17) B1.8e+06(0,17) B3.6e+06(0,17)",
		Disjoint:   " B0.5(0,9) B1(0,0) B5(0,0) B10(0,0) B25(0,8) B50(0,0) B100(0,0) B250(0,0) B500(0,0) B1000(0,0) B2500(0,0) B5000(0,0) B10000(0,0) B30000(0,0) B60000(0,0) B300000(0,0) B600000(0,0) B1.8e+06(0,0) B3.6e+06(0,0)",
	} {
		if got := h.shown(mode); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got, want := h.shown(Detailed), "\n  totals=0,0:9, 20,1:8\n  intervals=\n  summary=P0(nan,0)"; !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want the beginning %s", got, want)
	}
}

func TestValuesOnABoundAreNotAboveIt(t *testing.T) {
	for i, b := range bounds[1:] {
		var h Histogram
		h.Record(uint64(b))
		h.Record(uint64(b) * 2)
		if got := below(h.bins(), h.limits())[i+1]; got != 1 {
			t.Errorf("%v and its double: %d not above %v, want 1", b, got, b)
		}
	}
}

func TestEveryValueFallsIntoItsBin(t *testing.T) {
	values := []uint64{0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 12345, math.MaxInt64, math.MaxUint64}
	for e, v := 0, uint64(1); e < 19; e, v = e+1, v*10 {
		values = append(values, v, v-1, v+1)
	}
	for _, v := range values {
		var h Histogram
		h.Record(v)
		bins := h.bins()
		if len(bins) != 1 || bins[0].count != 1 {
			t.Fatalf("%d: bins %v, want one", v, bins)
		}
		b := bins[0]
		// The floats near the end of uint64 are 2048 apart.
		if f := float64(v); f < b.low || f >= b.low+b.width+4096*b.width*1e-15 && v != 0 {
			t.Errorf("%d is in [%v, %v)", v, b.low, b.low+b.width)
		}
	}
}

func TestAnIntervalHoldsWhatCameBetweenTwoFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		h := r.Scope("a").Histogram("x")
		h.Record(1)
		time.Sleep(flushInterval + time.Second)
		h.Record(30)
		if got := total(h.last()); got != 1 {
			t.Errorf("first interval: %d values, want 1", got)
		}
		time.Sleep(flushInterval)
		if got := h.last(); len(got) != 1 || got[0] != (bin{30, 1, 1}) {
			t.Errorf("second interval: %v, want one of 30", got)
		}
		time.Sleep(flushInterval)
		if got := h.last(); len(got) != 0 {
			t.Errorf("third interval: %v, want nothing", got)
		}
		stop()
		done.Wait()
	})
}

func TestACounterAndAGaugeOfOneNameAreTwoMetrics(t *testing.T) {
	s := New().Scope("a")
	s.Counter("x").Add(2)
	s.Gauge("x").Set(3)
	s.Histogram("x").Record(4)
	s.Text("x").Set("five")
	if c, g := s.Counter("x").Value(), s.Gauge("x").Value(); c != 2 || g != 3 {
		t.Errorf("counter %d, gauge %d, want 2, 3", c, g)
	}
}

func TestGaugesHaveNoSign(t *testing.T) {
	r := New()
	r.Root().Gauge("hash").SetUnsigned(17234765554138278603)
	r.Root().Gauge("less").Dec()
	if got, want := text(t, r, Query{}), "hash: 17234765554138278603\nless: 0\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestScopesOfOnePrefixShareTheirMetrics(t *testing.T) {
	r := New()
	r.Scope("cluster").Tagged("envoy_cluster_name", "a.b").Counter("x").Inc()
	r.Scope("cluster").Scope("a").Scope("b").Counter("x").Inc()
	if got := r.Scope("cluster").Tagged("t", "a.b").Counter("x").Value(); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
}

func TestRemoveTakesTheScopeAndNoNeighbour(t *testing.T) {
	r := New()
	for _, name := range []string{"cluster.ab.x", "cluster.a-b.x", "cluster.x"} {
		r.Root().Counter(name).Inc()
	}
	a := r.Scope("cluster").Tagged("envoy_cluster_name", "a")
	a.Counter("x").Inc()
	a.Scope("ssl").Counter("x").Inc()
	r.Scope("cluster").Tagged("envoy_cluster_name", "a").Remove()
	if got, want := text(t, r, Query{}), "cluster.a-b.x: 1\ncluster.ab.x: 1\ncluster.x: 1\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	r.Scope("cluster").Scope("ab").Remove()
	r.Scope("cluster").Scope("a-b").Remove()
	r.Scope("nosuch").Scope("x").Remove()
	r.Root().Scope("cluster").Remove()
	if len(r.root.children) != 0 {
		t.Errorf("%d empty nodes are left", len(r.root.children))
	}
}

func text(t *testing.T, r *Registry, q Query) string {
	t.Helper()
	var b strings.Builder
	if err := r.Text(&b, q); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// some is a registry with a metric of each kind.
func some() *Registry {
	r := New()
	c := r.Scope("cluster").Tagged("envoy_cluster_name", `a"b`)
	c.Counter("upstream_cx_total").Add(3)
	c.Counter("unused")
	c.Gauge("upstream_cx_active").Set(-1)
	c.Gauge("zero").Set(0)
	c.Histogram("upstream_cx_length_ms").Record(20)
	c.Histogram("unused_ms")
	c.Text("version_text").Set("<1>")
	c.Scope("ssl").Valued("ciphers", "envoy_ssl_cipher", "TLS_AES_128_GCM_SHA256").Inc()
	r.Tagged("envoy_rbac_prefix", "web").Scope("rbac").Counter("denied").Inc()
	return r
}

func TestTextIsEnvoys(t *testing.T) {
	const length = `cluster.a"b.upstream_cx_length_ms: P0(nan,20.5) P25(nan,20.5) P50(nan,20.5) P75(nan,20.5) P90(nan,20.5) P95(nan,20.5) P99(nan,20.5) P99.5(nan,20.5) P99.9(nan,20.5) P100(nan,20.5)` + "\n"
	cases := []struct {
		name  string
		query Query
		want  string
	}{
		{"everything", Query{}, `cluster.a"b.version_text: "&lt;1&gt;"
cluster.a"b.ssl.ciphers.TLS_AES_128_GCM_SHA256: 1
cluster.a"b.unused: 0
cluster.a"b.upstream_cx_active: 0
cluster.a"b.upstream_cx_total: 3
cluster.a"b.zero: 0
web.rbac.denied: 1
cluster.a"b.unused_ms: No recorded values
` + length},
		{"used counters", Query{UsedOnly: true, Type: "Counters"}, `cluster.a"b.ssl.ciphers.TLS_AES_128_GCM_SHA256: 1
cluster.a"b.upstream_cx_total: 3
web.rbac.denied: 1
`},
		{"used gauges, also those set to 0", Query{UsedOnly: true, Type: "Gauges"}, "cluster.a\"b.upstream_cx_active: 0\ncluster.a\"b.zero: 0\n"},
		{"used histograms", Query{UsedOnly: true, Type: "Histograms"}, length},
		{"texts", Query{Type: "TextReadouts"}, "cluster.a\"b.version_text: \"&lt;1&gt;\"\n"},
		{"a filter is searched", Query{Filter: regexp.MustCompile("denied|tot"), Type: "All"}, "cluster.a\"b.upstream_cx_total: 3\nweb.rbac.denied: 1\n"},
		{"an inverted filter", Query{Filter: regexp.MustCompile("^cluster"), Invert: true}, "web.rbac.denied: 1\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := text(t, some(), c.query); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestJSONIsEnvoys(t *testing.T) {
	r := New()
	s := r.Scope("a")
	s.Text("t").Set("v")
	s.Counter("c").Inc()
	s.Histogram("h").Record(20)
	cases := []struct {
		name  string
		query Query
		want  string
	}{
		{"no histogram", Query{Filter: regexp.MustCompile("[tc]$")}, `{"stats":[{"name":"a.t","value":"v"},{"name":"a.c","value":1}]}`},
		{"nothing", Query{Filter: regexp.MustCompile("nosuch")}, `{"stats":[]}`},
		{"quantiles", Query{Type: "Histograms"}, `{"stats":[{"histograms":{"computed_quantiles":[{"name":"a.h","values":[` +
			strings.TrimSuffix(strings.Repeat(`{"cumulative":20.5,"interval":null},`, 10), ",") +
			`]}],"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100]}}]}`},
		{"details", Query{Type: "Histograms", Buckets: Detailed}, `{"stats":[{"histograms":{"details":[{"name":"a.h","totals":[{"lower_bound":20,"width":1,"count":1}],"intervals":[],"percentiles":[` +
			strings.TrimSuffix(strings.Repeat(`{"cumulative":20.5,"interval":null},`, 10), ",") +
			`]}],"supported_percentiles":[0,25,50,75,90,95,99,99.5,99.9,100]}}]}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			if err := r.JSON(&b, c.query); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", b.String(), c.want)
			}
		})
	}
	var b strings.Builder
	if err := r.JSON(&b, Query{Type: "Histograms", Buckets: Disjoint}); err != nil {
		t.Fatal(err)
	}
	if want := `{"upper_bound":25,"interval":0,"cumulative":1},{"upper_bound":50,"interval":0,"cumulative":0}`; !strings.Contains(b.String(), want) {
		t.Errorf("%s is not in %s", want, b.String())
	}
}

func TestPrometheusNamesHaveNoVariableParts(t *testing.T) {
	var b strings.Builder
	if err := some().Prometheus(&b, Query{TextReadouts: true, UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE envoy_cluster_upstream_cx_total counter\nenvoy_cluster_upstream_cx_total{envoy_cluster_name=\"a\\\"b\"} 3\n",
		"# TYPE envoy_cluster_upstream_cx_active gauge\n",
		"# TYPE envoy_cluster_upstream_cx_length_ms histogram\nenvoy_cluster_upstream_cx_length_ms_bucket{envoy_cluster_name=\"a\\\"b\",le=\"0.5\"} 0\n",
		"envoy_cluster_upstream_cx_length_ms_bucket{envoy_cluster_name=\"a\\\"b\",le=\"25\"} 1\n",
		"envoy_cluster_upstream_cx_length_ms_bucket{envoy_cluster_name=\"a\\\"b\",le=\"+Inf\"} 1\n",
		"envoy_cluster_upstream_cx_length_ms_sum{envoy_cluster_name=\"a\\\"b\"} 20\n",
		"envoy_cluster_version_text{envoy_cluster_name=\"a\\\"b\",text_value=\"<1>\"} 0\n",
		"envoy_cluster_ssl_ciphers{envoy_cluster_name=\"a\\\"b\",envoy_ssl_cipher=\"TLS_AES_128_GCM_SHA256\"} 1\n",
		"envoy_rbac_denied{envoy_rbac_prefix=\"web\"} 1\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := some().Prometheus(&b, Query{Buckets: Summary}); err != nil {
		t.Fatal(err)
	}
	if want := "envoy_cluster_upstream_cx_length_ms{envoy_cluster_name=\"a\\\"b\",quantile=\"0.5\"} NaN\n"; !strings.Contains(b.String(), want) {
		t.Errorf("no %s in\n%s", want, b.String())
	}
	if strings.Contains(b.String(), "version_text") {
		t.Error("text readouts without text_readouts")
	}
}

func TestResetMakesCountersZeroAndLeavesThemUsed(t *testing.T) {
	r := some()
	r.Reset()
	if got, want := text(t, r, Query{UsedOnly: true, Type: "Counters"}), `cluster.a"b.ssl.ciphers.TLS_AES_128_GCM_SHA256: 0
cluster.a"b.upstream_cx_total: 0
web.rbac.denied: 0
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if h := r.Scope("cluster").Scope(`a"b`).Histogram("upstream_cx_length_ms"); total(h.bins()) != 1 {
		t.Error("the histogram was reset")
	}
}

func TestEverythingMayHappenAtOnce(t *testing.T) {
	r := New()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 200 {
				s := r.Scope("cluster").Tagged("c", fmt.Sprint(i%7))
				s.Counter("x").Inc()
				s.Histogram("h").Record(uint64(i))
				r.Scope("kept").Histogram("h").Record(uint64(i))
				if i%11 == 0 {
					s.Remove()
				}
				if i%50 == 0 {
					_ = r.Text(discard{}, Query{})
					r.Scope("kept").Histogram("h").flush()
				}
			}
		})
	}
	all.Wait()
	if got := total(r.Scope("kept").Histogram("h").bins()); got != 800 {
		t.Errorf("%d values, want 800", got)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func many() *Registry {
	r := New()
	for i := range 1000 {
		s := r.Scope("cluster").Tagged("envoy_cluster_name", fmt.Sprintf("outbound|80||svc-%d.default", i))
		for j := range 100 {
			s.Counter(fmt.Sprintf("metric_%d", j)).Inc()
		}
	}
	return r
}

func BenchmarkList100k(b *testing.B) {
	r := many()
	for b.Loop() {
		_ = r.Text(discard{}, Query{})
	}
}

func BenchmarkPrometheus100k(b *testing.B) {
	r := many()
	for b.Loop() {
		_ = r.Prometheus(discard{}, Query{})
	}
}

func BenchmarkInc(b *testing.B) {
	c := New().Scope("a").Counter("x")
	for b.Loop() {
		c.Inc()
	}
}

func BenchmarkRecord(b *testing.B) {
	h := New().Scope("a").Histogram("x")
	for b.Loop() {
		h.Record(12345)
	}
}
