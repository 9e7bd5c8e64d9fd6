package xds

import (
	"fmt"
	"sync"
	"time"
)

// Shared hands out the resources of one type by name, decoded once for all who
// watch them. A name is subscribed to while somebody watches it.
type Shared[T any] struct {
	client *Client
	url    string
	decode func(Resource) (T, error)
	stats  func(name string) *Stats // nil: watchers have their own

	mu     sync.Mutex
	byName map[string]*named[T] // guarded by mu
}

// named is one watched resource; its fields are guarded by Shared.mu.
type named[T any] struct {
	value   T
	version string
	updated time.Time
	is      bool // there is a value
	changed chan struct{}
	watches map[*Watch[T]]struct{}
	stats   *Stats // of all watchers; nil for none
	late    bool   // FetchTimeout of one has passed
}

// NewShared registers t with client, with an Apply of its own. decode's error
// is the reason of a refusal.
func NewShared[T any](client *Client, t Type, decode func(Resource) (T, error)) *Shared[T] {
	s := &Shared[T]{client: client, url: t.URL, decode: decode, byName: map[string]*named[T]{}}
	t.Apply, t.Failed = s.apply, s.failed
	client.Register(t)
	return s
}

// CountByName has the updates of each name counted once for all who watch it,
// by the metrics that it makes. It must be called before the first Watch.
func (s *Shared[T]) CountByName(stats func(name string) *Stats) { s.stats = stats }

// WatchOptions are what one watcher wants. The zero value is good.
type WatchOptions[T any] struct {
	// Check may refuse a version that decodes; then nobody gets it. It is not
	// asked about a version that was there before the watch.
	Check func(T) error
	// Taken is told of each version that Check had no objection to, when all
	// have none; nil: nobody is.
	Taken func(T)
	// Removed is told that there is no such resource any more, and has it
	// forgotten; nil: what is in use is not taken away.
	Removed func()
	// FetchTimeout is initial_fetch_timeout: when First is closed without a
	// version; 0 is never.
	FetchTimeout time.Duration
	// Refused is told of each version that was refused, Failed that the stream
	// ended; nil: nobody is.
	Refused, Failed func(error)
	// Stats count the updates; nil does not.
	Stats *Stats
}

// Watch is one watcher of one resource. Its methods may be called by many
// goroutines.
type Watch[T any] struct {
	shared *Shared[T]
	name   string
	opts   WatchOptions[T]

	first chan struct{}
	once  sync.Once
	timer *time.Timer // nil for no timeout
	close sync.Once
}

// Version is one version of a resource.
type Version[T any] struct {
	Value   T
	Info    string // version_info
	Updated time.Time
}

// Watch begins to watch a resource, until Close.
func (s *Shared[T]) Watch(name string, opts WatchOptions[T]) (*Watch[T], error) {
	w := &Watch[T]{shared: s, name: name, opts: opts, first: make(chan struct{})}
	s.mu.Lock()
	n := s.byName[name]
	if n == nil {
		n = &named[T]{changed: make(chan struct{}), watches: map[*Watch[T]]struct{}{}}
		if s.stats != nil {
			n.stats = s.stats(name)
			n.stats.Begin()
		}
		s.byName[name] = n
	}
	n.watches[w] = struct{}{}
	known := n.is
	s.mu.Unlock()
	opts.Stats.Begin()
	switch {
	case known:
		w.open()
	case opts.FetchTimeout > 0:
		w.timer = time.AfterFunc(opts.FetchTimeout, w.giveUp)
	}
	if err := s.client.Subscribe(s.url, name); err != nil {
		w.forget()
		return nil, err
	}
	return w, nil
}

func (w *Watch[T]) open() { w.once.Do(func() { close(w.first) }) }

func (w *Watch[T]) giveUp() {
	select {
	case <-w.first:
	default:
		w.opts.Stats.TimedOut()
		w.shared.timedOut(w.name)
		w.open()
	}
}

// timedOut counts the first FetchTimeout of a name.
func (s *Shared[T]) timedOut(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byName[name]; n != nil && !n.late {
		n.late = true
		n.stats.TimedOut()
	}
}

// Name is the resource's name.
func (w *Watch[T]) Name() string { return w.name }

// Current is the version in use; ok is false if there is none yet.
func (w *Watch[T]) Current() (v Version[T], ok bool) {
	w.shared.mu.Lock()
	defer w.shared.mu.Unlock()
	n := w.shared.byName[w.name]
	if n == nil {
		return v, false
	}
	return Version[T]{n.value, n.version, n.updated}, n.is
}

// Missing is why there is no version yet; nil if there is one.
func (w *Watch[T]) Missing() error {
	if _, ok := w.Current(); ok {
		return nil
	}
	return fmt.Errorf("%q has not come from the control plane yet", w.name)
}

// Changed is closed at the next version.
func (w *Watch[T]) Changed() <-chan struct{} {
	w.shared.mu.Lock()
	defer w.shared.mu.Unlock()
	if n := w.shared.byName[w.name]; n != nil {
		return n.changed
	}
	return nil
}

// First is closed when the first version is there, or was refused, or does not
// exist, or has not come within FetchTimeout.
func (w *Watch[T]) First() <-chan struct{} { return w.first }

// Close ends the watch. What was current stays so for whoever has it.
func (w *Watch[T]) Close() {
	w.close.Do(func() {
		w.forget()
		w.shared.client.Unsubscribe(w.shared.url, w.name)
	})
}

func (w *Watch[T]) forget() {
	if w.timer != nil {
		w.timer.Stop()
	}
	s := w.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byName[w.name]
	if n == nil {
		return
	}
	if delete(n.watches, w); len(n.watches) == 0 {
		delete(s.byName, w.name)
	}
}

// apply is the Type's Apply. A removal changes nothing where nobody wants to know
// of it, as in Envoy: what is in use is not taken away; but whoever waits is told
// that there is nothing.
func (s *Shared[T]) apply(u Update) map[string]error {
	refused := map[string]error{}
	for _, r := range u.Updated {
		if err := s.applyOne(r); err != nil {
			refused[r.Name] = err
		}
	}
	for _, name := range u.Removed {
		s.remove(name)
	}
	return refused
}

func (s *Shared[T]) remove(name string) {
	begin := time.Now()
	watches, counts := s.watchers(name)
	for _, w := range watches {
		if w.opts.Removed != nil {
			s.forgetValue(name)
			w.opts.Removed()
		}
		w.open()
	}
	counts.Took("", time.Since(begin))
}

// forgetValue takes away what is known of a name.
func (s *Shared[T]) forgetValue(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byName[name]
	if n == nil || !n.is {
		return
	}
	var none T
	n.value, n.version, n.is = none, "", false
	close(n.changed)
	n.changed = make(chan struct{})
}

func (s *Shared[T]) applyOne(r Resource) error {
	begin := time.Now()
	watches, counts := s.watchers(r.Name)
	value, err := s.decode(r)
	for _, w := range watches {
		if err == nil && w.opts.Check != nil {
			err = w.opts.Check(value)
		}
	}
	if err == nil {
		s.publish(r, value)
		counts.Took(r.Version, time.Since(begin))
	} else {
		counts.Refused()
	}
	for _, w := range watches {
		if err == nil {
			if w.opts.Taken != nil {
				w.opts.Taken(value)
			}
			w.opts.Stats.Took(r.Version, time.Since(begin))
		} else {
			w.opts.Stats.Refused()
			if w.opts.Refused != nil {
				w.opts.Refused(err)
			}
		}
		w.open()
	}
	return err
}

func (s *Shared[T]) publish(r Resource, value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byName[r.Name]
	if n == nil {
		return
	}
	n.value, n.version, n.updated, n.is = value, r.Version, time.Now(), true
	close(n.changed)
	n.changed = make(chan struct{})
}

// watchers are those of a name, with the metrics that they have in common.
func (s *Shared[T]) watchers(name string) ([]*Watch[T], *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byName[name]
	if n == nil {
		return nil, nil
	}
	out := make([]*Watch[T], 0, len(n.watches))
	for w := range n.watches {
		out = append(out, w)
	}
	return out, n.stats
}

// failed is the Type's Failed.
func (s *Shared[T]) failed(err error) {
	s.mu.Lock()
	var all []*Watch[T]
	for _, n := range s.byName {
		n.stats.Failed()
		for w := range n.watches {
			all = append(all, w)
		}
	}
	s.mu.Unlock()
	for _, w := range all {
		w.opts.Stats.Failed()
		if w.opts.Failed != nil {
			w.opts.Failed(err)
		}
	}
}

// Names are the watched resources, in no order, with their versions; those
// without one have none.
func (s *Shared[T]) Names() map[string]Version[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Version[T], len(s.byName))
	for name, n := range s.byName {
		out[name] = Version[T]{n.value, n.version, n.updated}
	}
	return out
}
