package hcm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// Prepare makes a filter of a configuration that came by discovery, nil for its
// default. An error refuses the configuration; else take has requests from now on
// meet the filter.
type Prepare func(*config.HTTPExtension) (take func(), err error)

// discovered is a filter whose configuration comes by discovery, and may change
// between two requests of a connection.
type discovered struct {
	m    *Manager
	cfg  *config.HTTPFilter
	deps filter.Deps

	mu     sync.Mutex                // held while now changes
	closed bool                      // guarded by mu
	now    atomic.Pointer[discovery] // nil: there is no configuration
}

// discovery is one version of it. Its own work ends when it is not the current one
// any more, and no request has it.
type discovery struct {
	filter.Factory
	uses atomic.Int64 // requests that have it, and one while it is current
	stop context.CancelFunc
}

// discover makes the filter of cfg, which begins with its default, and
// subscribes to its configuration.
func (m *Manager) discover(cfg *config.HTTPFilter, d filter.Deps) (*discovered, error) {
	one := &discovered{m: m, cfg: cfg, deps: d}
	if m.deps.Extensions == nil {
		return nil, errors.New("config_discovery: there is nothing to subscribe with")
	}
	take, err := one.prepare(nil)
	if err != nil {
		return nil, fmt.Errorf("default_config: %w", err)
	}
	take()
	cancel, err := m.deps.Extensions(cfg, one.prepare)
	if err != nil {
		one.close()
		return nil, fmt.Errorf("config_discovery: %w", err)
	}
	m.cancels = append(m.cancels, cancel, one.close)
	return one, nil
}

// prepare is a Prepare.
func (x *discovered) prepare(e *config.HTTPExtension) (take func(), err error) {
	made := x.cfg.Discovery.Default
	if e != nil {
		if made = e.Config; !slices.Contains(x.cfg.Discovery.Types, e.Type) {
			return nil, fmt.Errorf("typed_config: %s is not among type_urls of filter %q: %s", e.Type, x.cfg.Name, strings.Join(x.cfg.Discovery.Types, ", "))
		}
	}
	if made == nil {
		return func() { x.set(nil) }, nil
	}
	maker := x.m.deps.Makers.Of(made)
	if maker == nil {
		return nil, fmt.Errorf("there is no filter for %T", made)
	}
	f, err := maker(&config.HTTPFilter{Name: x.cfg.Name, Disabled: x.cfg.Disabled, Config: made}, x.deps)
	if err != nil {
		return nil, err
	}
	return func() { x.set(f) }, nil
}

// set makes f what requests meet; nil for nothing.
func (x *discovered) set(f filter.Factory) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return
	}
	var next *discovery
	if f != nil {
		next = &discovery{Factory: f, stop: func() {}}
		next.uses.Store(1)
		if r, ok := f.(filter.Runner); ok {
			next.stop = x.m.runs(r)
		}
	}
	if before := x.now.Swap(next); before != nil {
		before.release()
	}
}

func (x *discovered) close() {
	x.set(nil)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
}

// acquire is the current version, which a request has until it calls release; nil
// if there is none.
func (x *discovered) acquire() *discovery {
	for {
		v := x.now.Load()
		if v == nil || v.hold() {
			return v
		}
	}
}

// hold is false if the last one has let go.
func (v *discovery) hold() bool {
	for {
		n := v.uses.Load()
		if n == 0 {
			return false
		}
		if v.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (v *discovery) release() {
	if v.uses.Add(-1) == 0 {
		v.stop()
	}
}

// current is the filter that a request would meet now; nil if its configuration
// has not come.
func (f *factory) current() filter.Factory {
	if f.found == nil {
		return f.Factory
	}
	if v := f.found.now.Load(); v != nil {
		return v.Factory
	}
	return nil
}

// attach makes the filter of f for the request l is of; nil if there is none.
func (f *factory) attach(l *link) filter.Filter {
	if f.found == nil {
		return f.New(l)
	}
	v := f.found.acquire()
	if v == nil {
		return &unconfigured{s: l}
	}
	made := v.New(l)
	if made == nil {
		v.release()
		return nil
	}
	l.version = v
	return made
}

// unconfigured is in place of a filter whose configuration has not come. It
// answers each request, as Envoy does.
type unconfigured struct {
	filter.Pass
	s filter.Stream
}

// RequestHead answers.
func (u *unconfigured) RequestHead(*message.Head, bool) filter.Action {
	u.s.Reply(filter.Reply{Status: 500, Flags: flow.NoFilterConfigFound})
	return filter.Stop
}
