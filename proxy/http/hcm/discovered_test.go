package hcm

import (
	"context"
	"log/slog"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/stats"
)

// worker is a filter with work of its own.
type worker struct{ running *atomic.Int32 }

func (w worker) New(filter.Stream) filter.Filter { return filter.Pass{} }

func (w worker) Run(ctx context.Context) error {
	w.running.Add(1)
	defer w.running.Add(-1)
	<-ctx.Done()
	return nil
}

func TestAFiltersWorkEndsWithTheLastRequestThatHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type settings struct{}
		var running atomic.Int32
		var prepare Prepare
		ctx, end := context.WithCancel(t.Context())
		defer end()
		cfg := &config.HTTPConnectionManager{
			StatPrefix: "x", Routes: &config.RouteConfig{},
			Filters: []*config.HTTPFilter{{Name: "f", Discovery: &config.FilterDiscovery{Types: []string{"t"}}}, {Name: "router", Config: &config.HTTPRouter{}}},
		}
		m, err := New("hcm", cfg, Deps{
			Stats: stats.New(), Log: slog.New(slog.DiscardHandler), Background: ctx,
			Makers: filter.Makers{reflect.TypeFor[*settings](): func(*config.HTTPFilter, filter.Deps) (filter.Factory, error) {
				return worker{&running}, nil
			}},
			Extensions: func(_ *config.HTTPFilter, p Prepare) (func(), error) { prepare = p; return func() {}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		works := func(what string, want int32) {
			t.Helper()
			synctest.Wait()
			if got := running.Load(); got != want {
				t.Errorf("%s: %d work, want %d", what, got, want)
			}
		}
		push := func(e *config.HTTPExtension) {
			t.Helper()
			take, err := prepare(e)
			if err != nil {
				t.Fatal(err)
			}
			take()
		}
		f := &m.filters[0]
		if f.current() != nil {
			t.Error("there is a filter before its configuration has come")
		}
		if _, err := prepare(&config.HTTPExtension{Type: "u", Config: &settings{}}); err == nil {
			t.Error("a type that is not among type_urls is taken")
		}
		push(&config.HTTPExtension{Type: "t", Config: &settings{}})
		works("the first", 1)
		request := f.found.acquire()
		push(&config.HTTPExtension{Type: "t", Config: &settings{}})
		works("the second, and a request with the first", 2)
		request.release()
		works("the second", 1)
		push(nil)
		works("removed", 0)
		push(&config.HTTPExtension{Type: "t", Config: &settings{}})
		works("the third", 1)
		m.Close()
		works("closed", 0)
		push(&config.HTTPExtension{Type: "t", Config: &settings{}})
		works("what comes after", 0)
	})
}
