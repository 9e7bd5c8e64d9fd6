package jwtauthn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

const (
	// maxSet is how long a JWK set may be. Large providers have a few keys of
	// 2 KB each.
	maxSet = 1 << 20
	// refreshBefore is how long before the end of its time a set is fetched
	// anew (Envoy: JwksAsyncFetcher).
	refreshBefore = 5 * time.Second
)

// source has the keys of a provider: its own, or fetched and kept for a while.
// It is safe for concurrent use.
type source struct {
	remote *config.RemoteJWKS // nil: local, and the keys are for ever
	client http.RoundTripper
	stats  *counters

	mu      sync.Mutex // guards what follows
	keys    keys
	until   time.Time // when the keys are too old
	loading *flight
}

// flight is a fetch that others wait for. err is written before done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// counters are of all sources.
type counters struct{ fetched, failed *stats.Counter }

// current are the keys, if they are not too old; nil if they must be fetched.
func (s *source) current(now time.Time) keys {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote != nil && !now.Before(s.until) {
		return nil
	}
	return s.keys
}

// get are the keys, fetched if need be. Of those who ask at once one fetches,
// the others wait.
func (s *source) get(ctx context.Context) (keys, error) {
	for {
		if ks := s.current(time.Now()); ks != nil || s.remote == nil {
			return ks, nil
		}
		f, first := s.join()
		if first {
			return s.lead(ctx, f)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.done:
		}
		// If only the request that fetched went away, somebody else has to.
		if f.err != nil && !errors.Is(f.err, context.Canceled) {
			return nil, f.err
		}
	}
}

// join is the fetch that is under way, or a new one that is the caller's.
func (s *source) join() (f *flight, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loading == nil {
		s.loading = &flight{done: make(chan struct{})}
		return s.loading, true
	}
	return s.loading, false
}

// lead fetches for all who wait.
func (s *source) lead(ctx context.Context, f *flight) (keys, error) {
	ks, err := s.fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.keys, s.until = ks, time.Now().Add(s.remote.CacheTime)
	}
	f.err, s.loading = err, nil
	close(f.done)
	return ks, err
}

// fetch asks for the set, and asks again as the retry policy says.
func (s *source) fetch(ctx context.Context) (keys, error) {
	var err error
	for try := uint32(0); ; try++ {
		var ks keys
		if ks, err = s.once(ctx); err == nil {
			s.stats.fetched.Inc()
			return ks, nil
		}
		if try >= s.remote.Retries || wait(ctx, s.backoff(try)) != nil {
			s.stats.failed.Inc()
			return nil, err
		}
	}
}

// backoff is a random time below the base, doubled with each try, up to the
// maximum (Envoy: JitteredExponentialBackOffStrategy).
func (s *source) backoff(try uint32) time.Duration {
	limit := s.remote.BackoffBase << min(try, 30)
	if limit <= 0 || s.remote.BackoffMax > 0 && limit > s.remote.BackoffMax {
		limit = s.remote.BackoffMax
	}
	if limit <= 0 {
		return 0
	}
	return rand.N(limit)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *source) once(ctx context.Context) (keys, error) {
	if s.remote.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.remote.Timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.remote.URI, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("uri %q: %w", s.remote.URI, err)
	}
	resp, err := s.client.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxSet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSet {
		return nil, errors.New("the JWK set is longer than 1 MiB")
	}
	return parseKeys(text)
}

// run keeps the keys fresh for an async_fetch, so that no request has to wait.
func (s *source) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := s.remote.FailedRefetch
		if s.refresh(ctx) == nil {
			pause = max(s.remote.CacheTime-refreshBefore, s.remote.CacheTime/2)
		}
		if wait(ctx, max(pause, time.Millisecond)) != nil {
			return
		}
	}
}

// refresh fetches although there are keys. Those that were there stay until
// then, as old as they may get.
func (s *source) refresh(ctx context.Context) error {
	ks, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.until = ks, time.Now().Add(s.remote.CacheTime)
	return nil
}
