package certs

import "sync"

// Store hands out one Handle for each secret and feeds them.
type Store struct {
	mu      sync.Mutex
	handles map[key]*Handle // guarded by mu
}

// key is what makes two Refs the same secret.
type key struct{ name, path, cluster string }

// NewStore makes an empty store.
func NewStore() *Store { return &Store{handles: map[key]*Handle{}} }

// Get is the handle of ref, made on first use and subscribed to its source.
// It does not block. An inline ref has a handle of its own each time.
func (s *Store) Get(ref Ref) *Handle {
	if ref.Inline != nil {
		return NewHandle(ref)
	}
	k := key{name: ref.Name}
	if ref.Source != nil {
		k.path, k.cluster = ref.Source.Path, ref.Source.Cluster
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[k]
	if h == nil {
		h = NewHandle(ref)
		s.handles[k] = h
	}
	return h
}
