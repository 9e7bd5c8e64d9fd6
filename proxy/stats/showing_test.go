package stats

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func tag(name, re string) Tag { return Tag{Name: name, Regex: regexp.MustCompile(re)} }

// istios are expressions of the bootstrap that Istio's agent writes.
func istios() []Tag {
	return []Tag{
		tag("cluster_name", `^cluster(\.(.+);)`), tag("tcp_prefix", `^tcp\.((.*?)\.)\w+?$`), tag("response_code", `_rq(_(\d{3}))$`),
		tag("response_code_class", `_rq(_(\dxx))$`), tag("authz_enforce_result", `rbac(\.(allowed|denied))`),
	}
}

func TestTagsOfOnesOwnAreFoundInNames(t *testing.T) {
	for name, c := range map[string]struct {
		show   Showing
		metric func(r *Registry)
		want   string
	}{
		"a cluster of Istio's": {
			show: Showing{OwnTagsOnly: true, Tags: istios()},
			metric: func(r *Registry) {
				r.Scope("cluster").Tagged("envoy_cluster_name", "outbound|80||x.y;").Counter("upstream_cx_total")
			},
			want: `envoy_cluster_upstream_cx_total{cluster_name="outbound|80||x.y"} 0`,
		},
		"another cluster": {
			show: Showing{OwnTagsOnly: true, Tags: istios()},
			metric: func(r *Registry) {
				r.Scope("cluster").Tagged("envoy_cluster_name", "plain").Counter("upstream_cx_total")
			},
			want: `envoy_cluster_plain_upstream_cx_total 0`,
		},
		"two tags": {
			show: Showing{OwnTagsOnly: true, Tags: istios()},
			metric: func(r *Registry) {
				r.Scope("cluster").Tagged("envoy_cluster_name", "x;").Valued("upstream_rq", "envoy_response_code", "200")
			},
			want: `envoy_cluster_upstream_rq_200{cluster_name="x"} 0`,
		},
		"a code": {
			show:   Showing{OwnTagsOnly: true, Tags: istios()},
			metric: func(r *Registry) { r.Scope("cluster").Tagged("envoy_cluster_name", "x;").Counter("upstream_rq_5xx") },
			want:   `envoy_cluster_upstream_rq{cluster_name="x",response_code_class="5xx"} 0`,
		},
		"tags that overlap": {
			show:   Showing{OwnTagsOnly: true, Tags: istios()},
			metric: func(r *Registry) { r.Scope("tcp").Scope("rbac").Counter("allowed") },
			want:   `envoy_tcp{tcp_prefix="rbac",authz_enforce_result="allowed"} 0`,
		},
		"beside Envoy's own": {
			show: Showing{Tags: append(istios(), Tag{Name: "zone", Value: "z1"})},
			metric: func(r *Registry) {
				r.Scope("http").Tagged("envoy_http_conn_manager_prefix", "in").Scope("rbac").Counter("denied")
			},
			want: `envoy_http_rbac{envoy_http_conn_manager_prefix="in",authz_enforce_result="denied",zone="z1"} 0`,
		},
		"none in Istio's metrics": {
			show:   Showing{OwnTagsOnly: true, Tags: append(istios(), tag("all", "(istio.*)"), Tag{Name: "zone", Value: "z1"})},
			metric: func(r *Registry) { r.HoldCounter(istio("code", "rbac.allowed")) },
			want:   `istio_requests_total{code="rbac.allowed",zone="z1"} 0`,
		},
		"the first of a name counts": {
			show:   Showing{OwnTagsOnly: true, Tags: []Tag{tag("x", `(\.a)`), tag("x", `(\.b)`)}},
			metric: func(r *Registry) { r.Scope("n").Scope("a").Counter("b") },
			want:   `envoy_n_b{x=".a"} 0`,
		},
		"a group that took no part": {
			show:   Showing{OwnTagsOnly: true, Tags: []Tag{tag("x", `n|(y)`)}},
			metric: func(r *Registry) { r.Scope("n").Counter("b") },
			want:   `envoy_n_b 0`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := New()
			r.Show(c.show)
			c.metric(r)
			_, got, _ := strings.Cut(shown(t, r, forPrometheus), "\n")
			if strings.TrimSpace(got) != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAHistogramHasTheBucketsOfItsName(t *testing.T) {
	r := New()
	r.Show(Showing{Bounds: func(name string) []float64 {
		if strings.HasPrefix(name, "istiocustom") {
			return []float64{2, 100}
		}
		return nil
	}})
	h, _ := r.HoldHistogram(istio())
	for _, v := range []uint64{1, 50, 1000} {
		h.Record(v)
	}
	r.Scope("x").Histogram("y").Record(1)
	got := shown(t, r, forPrometheus)
	for _, want := range []string{`istio_requests_total_bucket{le="2"} 1`, `istio_requests_total_bucket{le="100"} 2`, `istio_requests_total_bucket{le="+Inf"} 3`, `envoy_x_y_bucket{le="3.6e+06"} 1`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, `istio_requests_total_bucket{le="1"}`) {
		t.Error("there are Envoy's buckets too")
	}
	for b, want := range map[Buckets]string{Cumulative: "B2(0,1) B100(0,2)", Disjoint: "B2(0,1) B100(0,1)"} {
		var text, json strings.Builder
		if err := errors.Join(r.Text(&text, Query{Buckets: b}), r.JSON(&json, Query{Buckets: b})); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), want) || !strings.Contains(json.String(), `"upper_bound":100`) {
			t.Errorf("text %s, JSON %s", text.String(), json.String())
		}
	}
}

func TestOnlyWhatIsKeptIsShown(t *testing.T) {
	r := New()
	r.Show(Showing{Keep: func(name string) bool { return strings.HasPrefix(name, "server") }})
	r.Scope("server").Counter("a").Inc()
	r.Scope("cluster").Counter("b").Inc()
	if got := shown(t, r, asText); got != "server.a: 1\n" {
		t.Errorf("text %q", got)
	}
	if got := shown(t, r, forPrometheus); strings.Contains(got, "cluster") || !strings.Contains(got, "envoy_server_a 1") {
		t.Errorf("for Prometheus %q", got)
	}
	if got := shown(t, r, func(r *Registry, b *strings.Builder) error { return r.JSON(b, Query{}) }); strings.Contains(got, "cluster") {
		t.Errorf("JSON %q", got)
	}
}
