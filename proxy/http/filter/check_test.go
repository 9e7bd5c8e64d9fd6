package filter_test

import (
	"errors"
	"strings"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
)

func TestWhatRoutesHaveForFiltersIsCheckedOnEachLevel(t *testing.T) {
	plain := filter.FactoryFunc(func(filter.Stream) filter.Filter { return filter.Pass{} })
	picky := filter.Checked(plain, func(o *config.FilterOverride) error {
		if o.Config == "bad" {
			return errors.New("it is bad")
		}
		return nil
	})
	level := func(cfg any) map[string]*config.FilterOverride {
		return map[string]*config.FilterOverride{"picky": {Config: cfg}, "plain": {Config: "bad"}, "unknown": {Config: "bad"}}
	}
	routes := func(at int) *config.RouteConfig {
		levels := [4]any{"good", "good", "good", "good"}
		if at >= 0 {
			levels[at] = "bad"
		}
		return &config.RouteConfig{PerFilter: level(levels[0]), VirtualHosts: []*config.VirtualHost{{
			Name: "v", PerFilter: level(levels[1]), Routes: []*config.Route{
				{Direct: &config.DirectReply{}},
				{PerFilter: level(levels[2]), Action: &config.RouteAction{Weighted: &config.WeightedClusters{Clusters: []config.WeightedHTTPCluster{{PerFilter: level(levels[3])}}}}},
			},
		}}}
	}
	filters := map[string]filter.Factory{"picky": picky, "plain": plain}
	for at, want := range []string{
		`typed_per_filter_config["picky"]: it is bad`,
		`virtual_hosts["v"].typed_per_filter_config["picky"]: it is bad`,
		`virtual_hosts["v"].routes[1].typed_per_filter_config["picky"]: it is bad`,
		`virtual_hosts["v"].routes[1].route.weighted_clusters.clusters[0].typed_per_filter_config["picky"]: it is bad`,
	} {
		if err := filter.CheckRoutes(routes(at), filters); err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
	if err := filter.CheckRoutes(routes(-1), filters); err != nil {
		t.Errorf("good routes are refused: %v", err)
	}
	if err := filter.CheckRoutes(&config.RouteConfig{PerFilter: level("bad"), VirtualHosts: routes(1).VirtualHosts}, filters); strings.Count(err.Error(), "it is bad") != 2 {
		t.Errorf("the error is %v, want both mistakes", err)
	}
}
