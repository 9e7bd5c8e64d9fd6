package telemetry

import (
	"strings"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func TestOverridesChangeMetrics(t *testing.T) {
	r, reg := reporter(t, config.IstioStats{
		Reporter: config.IstioDestination,
		Definitions: []config.IstioDefinition{
			{Name: "own_total", Value: "request.size"}, {Name: "own_gauge", Value: "response.code", Kind: config.IstioGauge},
			{Name: "own_bytes", Value: "request.host", Kind: config.IstioHistogram},
		},
		Metrics: []config.IstioMetric{
			{Name: "request_bytes", Drop: true},
			{Name: "requests_total", Remove: []string{"source_app", "not_there"}, Dimensions: map[string]string{
				"source_version": "'changed'", "b_host": "request.host", "a_user": "request.headers['x-user']",
			}},
			{Name: "own_total", Dimensions: map[string]string{"reporter": "'mine'"}},
			{Dimensions: map[string]string{"method": "request.method"}},
			{Remove: []string{"destination_cluster"}},
		},
	})
	r.Request(request(t, func(i *flow.Info) {
		i.HTTP.Request.Method = "GET\nx"
		i.Received.Store(7)
	}), false)
	got := exposed(t, reg)
	one := func(name string) string {
		if len(got[name]) != 1 {
			t.Errorf("%s is %q", name, got[name])
			return ""
		}
		return got[name][0]
	}
	total := one("istio_requests_total")
	for _, want := range []string{"source_version=changed", "connection_security_policy=none a_user=unknown b_host=asked.example method=GET_x 1"} {
		if !strings.Contains(total, want) {
			t.Errorf("requests_total is %q, want %q in it", total, want)
		}
	}
	for _, gone := range []string{"source_app=", "destination_cluster="} {
		if strings.Contains(total, gone) {
			t.Errorf("requests_total is %q with %s", total, gone)
		}
	}
	if bytes := one("istio_response_bytes"); !strings.Contains(bytes, "source_app=unknown source_version=unknown") || strings.Contains(bytes, "destination_cluster") || !strings.Contains(bytes, " method=GET_x ") {
		t.Errorf("response_bytes is %q", bytes)
	}
	if got["istio_request_bytes"] != nil {
		t.Errorf("request_bytes is %q, and dropped", got["istio_request_bytes"])
	}
	for name, want := range map[string]string{"istio_own_total": "method=GET_x reporter=mine 7", "istio_own_gauge": "method=GET_x 200", "istio_own_bytes": "method=GET_x 0"} {
		got := strings.Fields(one(name))
		slicesEqualAnyOrder(t, name, got, strings.Fields(want))
	}
}

func slicesEqualAnyOrder(t *testing.T, name string, got, want []string) {
	t.Helper()
	count := map[string]int{}
	for _, s := range got {
		count[s]++
	}
	for _, s := range want {
		count[s]--
	}
	for s, n := range count {
		if n != 0 {
			t.Errorf("%s has %q, want %q (%s)", name, got, want, s)
		}
	}
}

func TestMistakesAreRefusedWithTheirField(t *testing.T) {
	for want, cfg := range map[string]config.IstioStats{
		`definitions[0].name: "requests_total" is one of Istio's own`: {Definitions: []config.IstioDefinition{{Name: "requests_total", Value: "1"}}},
		`definitions[0].name: "a b" is no name`:                       {Definitions: []config.IstioDefinition{{Name: "a b", Value: "1"}}},
		`definitions[1].name: "a" is defined already`:                 {Definitions: []config.IstioDefinition{{Name: "a", Value: "1"}, {Name: "a", Value: "1"}}},
		`definitions[0].value: expression "1 +"`:                      {Definitions: []config.IstioDefinition{{Name: "a", Value: "1 +"}}},
		`metrics[1].name: "other" is none of`:                         {Metrics: []config.IstioMetric{{}, {Name: "other"}}},
		`metrics[0].name: to drop ""`:                                 {Metrics: []config.IstioMetric{{Drop: true}}},
		`metrics[0].dimensions["x"]: expression "nope"`:               {Metrics: []config.IstioMetric{{Dimensions: map[string]string{"x": "nope"}}}},
		`metrics[0].dimensions["a-b"]: it is no name`:                 {Metrics: []config.IstioMetric{{Dimensions: map[string]string{"a-b": "1"}}}},
	} {
		if _, err := New(&cfg, Deps{Stats: stats.New()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
