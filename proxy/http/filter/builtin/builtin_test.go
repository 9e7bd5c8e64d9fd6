package builtin_test

import (
	"reflect"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/http/filter/builtin"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

func TestEachMakerTakesItsConfigurationAndNoOther(t *testing.T) {
	all := builtin.Makers()
	if len(all) == 0 {
		t.Fatal("there are no filters")
	}
	for typ, make := range all {
		cfg := reflect.New(typ.Elem()).Interface()
		if all.Of(cfg) == nil {
			t.Errorf("%T has no maker", cfg)
		}
		d := filtertest.Deps(stats.New())
		_, empty := make(&config.HTTPFilter{Name: "f", Config: cfg}, d)
		_, other := make(&config.HTTPFilter{Name: "f", Config: &struct{}{}}, d)
		if other == nil {
			t.Errorf("the maker of %T takes another type", cfg)
		}
		if empty != nil && empty.Error() == other.Error() {
			t.Errorf("the maker of %T does not take it: %v", cfg, empty)
		}
	}
	if all.Of("text") != nil || all.Of(nil) != nil {
		t.Error("there is a maker for what is no configuration")
	}
}
