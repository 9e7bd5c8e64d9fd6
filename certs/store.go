package certs

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"
)

// Feed keeps one handle fed from its source until ctx ends: it publishes what
// comes and calls Fail for what does not. It returns when ctx ends.
type Feed func(ctx context.Context, h *Handle)

// Feeds are the ways that secrets come in. A nil Feed leaves its handles
// waiting.
type Feeds struct {
	File Feed // Source.Path
	GRPC Feed // Source.Cluster
	ADS  Feed // Source.ADS
}

// Store hands out one Handle for each secret and has them fed, until nobody has
// the Handle any more: a control plane may name ever new secrets.
type Store struct {
	feeds Feeds

	mu      sync.Mutex
	handles map[key]*lent // guarded by mu
	// inline is guarded by mu; for the admin interface, which must not keep
	// them: an update of a listener or a cluster makes new ones.
	inline  []weak.Pointer[Handle]
	run     context.Context //nolint:containedctx // guarded by mu; nil unless Run runs
	running sync.WaitGroup
}

// key is what makes two Refs the same secret.
type key struct {
	name, path, cluster string
	ads                 bool
}

// lent is one secret with a source; its fields are guarded by Store.mu.
type lent struct {
	key  key
	fed  *Handle              // the feed's own
	used weak.Pointer[Handle] // the users'; nil when the last one has dropped it
	kept *Handle              // the users', of a secret without a source, which nobody would bring again
	stop context.CancelFunc   // of the feed
}

// NewStore makes an empty store.
func NewStore(feeds Feeds) *Store { return &Store{feeds: feeds, handles: map[key]*lent{}} }

// SetStatic publishes secrets of the configuration, to be named without a
// source.
func (s *Store) SetStatic(secrets []*Secret) {
	for _, secret := range secrets {
		s.Get(Ref{Name: secret.Name}).Publish(secret)
	}
}

// Get is the handle of ref, made on first use and fed from its source as soon
// as Run runs, as long as somebody has it: the end is noticed when memory is
// collected. It does not block. An inline ref has a handle of its own each time.
func (s *Store) Get(ref Ref) *Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ref.Inline != nil {
		h := NewHandle(ref)
		s.inline = append(slices.DeleteFunc(s.inline, gone), weak.Make(h))
		return h
	}
	k := key{name: ref.Name}
	if ref.Source != nil {
		k.path, k.cluster, k.ads = ref.Source.Path, ref.Source.Cluster, ref.Source.ADS
	}
	one := s.handles[k]
	if one == nil {
		one = &lent{key: k, fed: NewHandle(ref), stop: func() {}}
		s.handles[k] = one
		s.feed(one)
	}
	if h := one.used.Value(); h != nil {
		return h
	}
	h := &Handle{one.fed.living}
	one.used = weak.Make(h)
	if ref.Source == nil {
		one.kept = h
	} else {
		runtime.AddCleanup(h, s.dropped, one)
	}
	return h
}

// dropped ends the feed of a secret whose users are gone.
func (s *Store) dropped(one *lent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.used.Value() == nil && s.handles[one.key] == one { // else somebody has asked again
		one.stop()
		delete(s.handles, one.key)
	}
}

// feed starts the feed of one; mu is held.
func (s *Store) feed(one *lent) {
	h := one.fed
	feed := s.feedOf(h.ref)
	if feed == nil || s.run == nil {
		return
	}
	ctx, stop := context.WithCancel(s.run)
	one.stop = stop
	s.running.Go(func() { feed(ctx, h) })
	if limit := h.ref.Source.InitialFetchTimeout; limit > 0 {
		s.running.Go(func() {
			select {
			case <-time.After(limit):
				h.giveUp()
			case <-h.Initial():
			case <-ctx.Done():
			}
		})
	}
}

func (s *Store) feedOf(ref Ref) Feed {
	switch {
	case ref.Source == nil:
		return nil
	case ref.Source.Path != "":
		return s.feeds.File
	case ref.Source.Cluster != "":
		return s.feeds.GRPC
	case ref.Source.ADS:
		return s.feeds.ADS
	}
	return nil
}

// Run feeds every handle, those that come later too, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	s.run = ctx
	for _, one := range s.handles {
		s.feed(one)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.run = nil
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// Handles are all handles but inline ones, in the order of their names. Whoever
// keeps one keeps its secret fed.
func (s *Store) Handles() []*Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Handle, 0, len(s.handles))
	for _, one := range s.handles {
		if h := one.used.Value(); h != nil {
			out = append(out, h)
		}
	}
	return SortByName(out)
}

// SortByName puts handles in the order of their secrets' names, in place.
func SortByName(handles []*Handle) []*Handle {
	slices.SortFunc(handles, func(a, b *Handle) int { return strings.Compare(a.ref.Name, b.ref.Name) })
	return handles
}

// Inline are the handles of inline secrets that somebody has.
func (s *Store) Inline() []*Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Handle
	for _, p := range s.inline {
		if h := p.Value(); h != nil {
			out = append(out, h)
		}
	}
	return out
}

func gone(p weak.Pointer[Handle]) bool { return p.Value() == nil }
