package filter

import (
	"fmt"
	"runtime"
	"sync"
	"weak"

	"outrider/proxy/config"
)

// Attached are values that belong to things (*K) of others: each is made when it
// is first asked for, and forgotten with the thing. A value must not point to
// its K. It is safe for concurrent use; the zero value is empty.
type Attached[K, V any] struct {
	made sync.Map // of weak.Pointer[K] to *lazily[V]
}

// lazily is a value that is made once.
type lazily[V any] struct {
	once  sync.Once
	value V
}

// Of is what belongs to k, made by create if it is not there.
func (a *Attached[K, V]) Of(k *K, create func() V) V {
	key := weak.Make(k)
	found, ok := a.made.Load(key)
	if !ok {
		var there bool
		if found, there = a.made.LoadOrStore(key, &lazily[V]{}); !there {
			runtime.AddCleanup(k, func(key weak.Pointer[K]) { a.made.Delete(key) }, key)
		}
	}
	one, _ := found.(*lazily[V]) // nothing else is stored
	one.once.Do(func() { one.value = create() })
	return one.value
}

// Overrides are what a filter makes of the configurations (*C) that routes have
// for it: each is compiled when a request first meets it. What compile makes
// must not point to the C. It is safe for concurrent use.
type Overrides[C, V any] struct {
	compile func(*C) (V, error)
	made    Attached[C, compiled[V]]
}

// compiled is a value, or why there is none.
type compiled[V any] struct {
	value V
	err   error
}

// NewOverrides is for configurations of type *C.
func NewOverrides[C, V any](compile func(*C) (V, error)) *Overrides[C, V] {
	return &Overrides[C, V]{compile: compile}
}

// Of is what o's configuration was compiled to; the zero V if o is nil or says
// only whether the filter is disabled.
func (x *Overrides[C, V]) Of(o *config.FilterOverride) (V, error) {
	var none V
	if o == nil || o.Config == nil {
		return none, nil
	}
	cfg, ok := o.Config.(*C)
	if !ok {
		return none, fmt.Errorf("a route has %T for a filter that takes %T", o.Config, cfg)
	}
	if cfg == nil {
		return none, nil
	}
	c := x.made.Of(cfg, func() compiled[V] {
		v, err := x.compile(cfg)
		return compiled[V]{v, err}
	})
	return c.value, c.err
}

// Check is for Checked.
func (x *Overrides[C, V]) Check(o *config.FilterOverride) error {
	_, err := x.Of(o)
	return err
}

// Misconfigured answers a request whose route has what the filter cannot use,
// and is what the filter then returns.
func Misconfigured(s Stream, err error) Action {
	s.Log().Warn("a route's configuration for a filter is refused", "error", err)
	s.Reply(Reply{Status: 500, Details: "filter_configuration_refused"})
	return Stop
}
