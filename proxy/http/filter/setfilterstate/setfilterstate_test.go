package setfilterstate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/setfilterstate"
	"outrider/proxy/stats"
)

func TestValuesAreSetFromTheRequest(t *testing.T) {
	own := &config.SetFilterState{OnRequest: []config.FilterStateValue{
		{Key: "a", Format: "%REQ(x)%"},
		{Key: "dash", Format: "%REQ(no)%"},
		{Key: "empty", Format: "%REQ(no)%", OmitEmpty: true},
		{Key: "skipped", Format: "%REQ(no)%", OmitEmpty: true, SkipIfEmpty: true},
		{Key: "there", Format: "new", ReadOnly: true},
		{Key: "changed", Format: "new"},
	}}
	route := &config.SetFilterState{OnRequest: []config.FilterStateValue{{Key: "a", Format: "route"}}}
	for name, c := range map[string]struct {
		overrides []*config.FilterOverride
		want      map[string]string
	}{
		"by the filter": {want: map[string]string{"a": "1", "dash": "-", "empty": "", "there": "old", "changed": "new"}},
		"by the route":  {overrides: []*config.FilterOverride{{Config: route}}, want: map[string]string{"a": "route", "there": "old", "changed": "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := setfilterstate.New(&config.HTTPFilter{Config: own}, filtertest.Deps(stats.New()))
			if err != nil {
				t.Fatal(err)
			}
			s := filtertest.New(t)
			s.Overriding = c.overrides
			s.Info().SetState("there", "old")
			s.Info().SetState("changed", "old")
			s.Start(f).RequestHead(filtertest.Request("GET", "/", "x", "1"), true)
			if diff := cmp.Diff(c.want, s.Info().FilterState); diff != "" || s.Up.Head == nil {
				t.Errorf("filter state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMistakesAreRefused(t *testing.T) {
	for _, v := range []config.FilterStateValue{{Key: "", Format: "x"}, {Key: "k", Format: "%NO_SUCH%"}} {
		if _, err := setfilterstate.New(&config.HTTPFilter{Config: &config.SetFilterState{OnRequest: []config.FilterStateValue{v}}}, filtertest.Deps(stats.New())); err == nil {
			t.Errorf("no error for %+v", v)
		}
	}
}
