package filter_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
)

// settings is big enough to be an allocation of its own.
type settings struct {
	name string
	_    [64]byte
}

func TestAnOverrideIsCompiledOnce(t *testing.T) {
	calls := 0
	x := filter.NewOverrides(func(c *settings) (int, error) {
		if calls++; c.name == "bad" {
			return 0, errors.New("bad settings")
		}
		return len(c.name), nil
	})
	o := &config.FilterOverride{Config: &settings{name: "four"}}
	for range 3 {
		if v, err := x.Of(o); v != 4 || err != nil {
			t.Fatalf("made %d, %v; want 4", v, err)
		}
	}
	if calls != 1 {
		t.Errorf("compiled %d times, want once", calls)
	}
	for range 2 {
		if _, err := x.Of(&config.FilterOverride{Config: &settings{name: "bad"}}); err == nil {
			t.Error("no error for bad settings")
		}
	}
	if _, err := x.Of(&config.FilterOverride{Config: "text"}); err == nil {
		t.Error("no error for what is of another type")
	}
	for _, none := range []*config.FilterOverride{nil, {Disabled: true}, {Config: (*settings)(nil)}} {
		if v, err := x.Of(none); v != 0 || err != nil {
			t.Errorf("made %d, %v of nothing", v, err)
		}
	}
}

func TestWhatIsAttachedGoesWithTheThing(t *testing.T) {
	var a filter.Attached[settings, *settings]
	gone := make(chan struct{})
	func() {
		k := &settings{name: "k"}
		made := a.Of(k, func() *settings { return &settings{name: "value"} })
		if again := a.Of(k, func() *settings { return nil }); again != made {
			t.Error("a second value was made")
		}
		runtime.AddCleanup(made, func(struct{}) { close(gone) }, struct{}{})
		runtime.KeepAlive(k)
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		runtime.GC()
		select {
		case <-gone:
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the value is still there after its thing has gone")
		}
		runtime.Gosched()
		runtime.KeepAlive(&a)
	}
}

func BenchmarkAnOverrideIsFound(b *testing.B) {
	x := filter.NewOverrides(func(c *settings) (int, error) { return len(c.name), nil })
	o := &config.FilterOverride{Config: &settings{name: "four"}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if v, err := x.Of(o); v != 4 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
}
