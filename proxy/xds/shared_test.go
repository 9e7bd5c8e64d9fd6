package xds

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// watching is a rig whose EDS is Shared, decoded to the version.
func watching(t *testing.T, f func(r *rig, s *Shared[string])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Delta: true})
		s := NewShared(r.client, Type{URL: RouteType}, func(one Resource) (string, error) {
			if one.Version == "bad" {
				return "", errors.New("no such thing")
			}
			return one.Name + "@" + one.Version, nil
		})
		go func() { _ = r.client.Run(t.Context()) }() // the bubble waits for it
		f(r, s)
	})
}

func watch(t *testing.T, s *Shared[string], name string, opts WatchOptions[string]) *Watch[string] {
	t.Helper()
	w, err := s.Watch(name, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func route(t *testing.T, version, name string) *discoveryv3.DeltaDiscoveryResponse {
	d := delta(t, ClusterType, version, cluster(name, version)) // field 1 is the name, as in a route
	d.TypeUrl = RouteType
	d.Resources[0].Resource.TypeUrl = RouteType
	return d
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestWatchersOfANameShareOneSubscription(t *testing.T) {
	watching(t, func(r *rig, s *Shared[string]) {
		a := watch(t, s, "r", WatchOptions[string]{})
		b := watch(t, s, "r", WatchOptions[string]{})
		r.stream()
		if first := request[delta1](r); !slices.Equal(first.GetResourceNamesSubscribe(), []string{"r"}) {
			t.Errorf("asked for %v, want r once", first.GetResourceNamesSubscribe())
		}
		if a.Missing() == nil || closed(a.First()) {
			t.Error("nothing is missing before the first version")
		}
		changed := a.Changed()
		r.answer(route(t, "1", "r"))
		request[delta1](r)
		v, ok := b.Current()
		if !ok || v.Value != "r@1" || v.Info != "1" || !closed(changed) || !closed(b.First()) || a.Missing() != nil {
			t.Errorf("b has %v %v, a changed %v, b first %v", v, ok, closed(changed), closed(b.First()))
		}
		late := watch(t, s, "r", WatchOptions[string]{})
		if v, ok := late.Current(); !ok || v.Value != "r@1" || !closed(late.First()) {
			t.Errorf("a late watcher has %v, %v", v, ok)
		}
		a.Close()
		a.Close() // again is nothing
		b.Close()
		r.quiet(time.Minute)
		late.Close()
		if last := request[delta1](r); !slices.Equal(last.GetResourceNamesUnsubscribe(), []string{"r"}) {
			t.Errorf("after the last watcher: %v, want r unsubscribed", last)
		}
	})
}

func TestARefusedVersionIsNobodys(t *testing.T) {
	watching(t, func(r *rig, s *Shared[string]) {
		var told []string
		a := watch(t, s, "r", WatchOptions[string]{Refused: func(err error) { told = append(told, err.Error()) }})
		watch(t, s, "r", WatchOptions[string]{Check: func(v string) error {
			if v == "r@2" {
				return errors.New("not for me")
			}
			return nil
		}})
		r.stream()
		request[delta1](r)
		for _, c := range []struct{ version, detail, current string }{
			{"1", "", "r@1"}, {"2", "r: not for me", "r@1"}, {"bad", "r: no such thing", "r@1"}, {"3", "", "r@3"},
		} {
			r.answer(route(t, c.version, "r"))
			if got := request[delta1](r).GetErrorDetail().GetMessage(); got != c.detail {
				t.Errorf("version %s: detail %q, want %q", c.version, got, c.detail)
			}
			if v, _ := a.Current(); v.Value != c.current {
				t.Errorf("version %s: current %q, want %q", c.version, v.Value, c.current)
			}
		}
		if want := []string{"not for me", "no such thing"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

func TestARemovalTakesNothingAwayButEndsTheWait(t *testing.T) {
	watching(t, func(r *rig, s *Shared[string]) {
		a := watch(t, s, "a", WatchOptions[string]{})
		b := watch(t, s, "b", WatchOptions[string]{})
		r.stream()
		r.answer(route(t, "1", "a"))
		gone := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: RouteType, RemovedResources: []string{"a", "b"}}
		r.answer(gone)
		if v, ok := a.Current(); !ok || v.Value != "a@1" {
			t.Errorf("a is %v, %v, want a@1 still", v, ok)
		}
		if !closed(b.First()) || b.Missing() == nil {
			t.Error("b is waited for, or there")
		}
		r.answer(route(t, "1", "a")) // the same bytes, but it was away
		if v, ok := a.Current(); !ok || v.Value != "a@1" {
			t.Errorf("a came back as %v, %v", v, ok)
		}
	})
}

func TestAWatchWaitsNoLongerThanItsTimeout(t *testing.T) {
	watching(t, func(_ *rig, s *Shared[string]) {
		begin := time.Now()
		<-watch(t, s, "r", WatchOptions[string]{FetchTimeout: 15 * time.Second}).First()
		if took := time.Since(begin); took != 15*time.Second {
			t.Errorf("waited %s, want 15s", took)
		}
	})
}
