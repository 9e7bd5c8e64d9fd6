package stats

import (
	"strconv"
	"strings"
	"testing"
)

func istio(labels ...string) Labelled {
	l := Labelled{Namespace: "istiocustom", Name: "istio_requests_total"}
	for i := 0; i+1 < len(labels); i += 2 {
		l.Labels = append(l.Labels, Label{labels[i], labels[i+1]})
	}
	return l
}

func shown(t *testing.T, r *Registry, how func(*Registry, *strings.Builder) error) string {
	t.Helper()
	var b strings.Builder
	if err := how(r, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func asText(r *Registry, b *strings.Builder) error        { return r.Text(b, Query{}) }
func forPrometheus(r *Registry, b *strings.Builder) error { return r.Prometheus(b, Query{}) }

func TestALabelledMetricHasNothingButLabelsForPrometheus(t *testing.T) {
	r := New()
	c, _ := r.HoldCounter(istio("reporter", "source", "empty", "", "host", "a.b \"c\""))
	g, _ := r.HoldGauge(Labelled{Namespace: "istiocustom", Name: "istio_build", Labels: []Label{{"tag", "1.2"}}})
	h, _ := r.HoldHistogram(Labelled{Namespace: "istiocustom", Name: "istio_request_bytes"})
	c.Add(3)
	g.Set(1)
	h.Record(5)
	for _, want := range []string{
		"# TYPE istio_requests_total counter\nistio_requests_total{reporter=\"source\",empty=\"\",host=\"a.b \\\"c\\\"\"} 3\n",
		"# TYPE istio_build gauge\nistio_build{tag=\"1.2\"} 1\n",
		"istio_request_bytes_bucket{le=\"10\"} 1\n",
	} {
		if got := shown(t, r, forPrometheus); !strings.Contains(got, want) {
			t.Errorf("got\n%swant in it\n%s", got, want)
		}
	}
	want := "istiocustom.istio_build.tag.1.2: 1\nistiocustom.istio_requests_total.reporter.source.empty.host.a.b \"c\": 3\n"
	if got := shown(t, r, asText); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestALabelledMetricGoesWithItsLastHolder(t *testing.T) {
	r := New()
	a, releaseA := r.HoldCounter(istio("x", "1"))
	b, releaseB := r.HoldCounter(istio("x", "1"))
	if a != b {
		t.Error("two holders have two counters")
	}
	a.Inc()
	releaseA()
	if got := shown(t, r, asText); !strings.Contains(got, "x.1: 1") {
		t.Errorf("it went with the first: %q", got)
	}
	releaseB()
	if got := shown(t, r, asText); got != "" {
		t.Errorf("it is still there: %q", got)
	}
	if c, _ := r.HoldCounter(istio("x", "1")); c.Value() != 0 {
		t.Errorf("it begins with %d", c.Value())
	}
}

func TestLabelsWithDotsAreNotConfused(t *testing.T) {
	r := New()
	a, _ := r.HoldCounter(istio("x", "1.y.2"))
	b, _ := r.HoldCounter(istio("x", "1", "y", "2"))
	if a == b {
		t.Error("x=1.y.2 and x=1,y=2 are one metric")
	}
}

func TestThereAreNotTooManyLabelledMetrics(t *testing.T) {
	r := New()
	for i := range maxLabelled {
		if c, _ := r.HoldCounter(istio("x", strconv.Itoa(i))); c == nil {
			t.Fatalf("there is no room for number %d", i)
		}
	}
	c, release := r.HoldCounter(istio("x", "more"))
	if release(); c != nil {
		t.Error("there is room for one more")
	}
	if again, _ := r.HoldCounter(istio("x", "0")); again == nil {
		t.Error("one that is there cannot be held again")
	}
}
