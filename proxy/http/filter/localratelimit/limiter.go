package localratelimit

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"outrider/proxy/config"
)

// limiter is what one token bucket of the configuration counts with, and those
// of its descriptors.
type limiter struct {
	usual       *bucket // nil: no limit, or denied
	denies      bool    // max_tokens 0: nothing may pass
	skipDefault bool
	exact       map[string]*bucket // by the key of a descriptor
	wild        []*wild
}

// minInterval is the shortest fill_interval that Envoy takes.
const minInterval = 50 * time.Millisecond

// check refuses what no limiter can be made of.
func check(cfg *config.LocalRateLimit) error {
	var errs []error
	if b := cfg.Bucket; b != nil && b.Max > 0 && b.Interval < minInterval {
		errs = append(errs, fmt.Errorf("token_bucket.fill_interval: %s is less than %s", b.Interval, minInterval))
	}
	seen := map[string]bool{}
	for i, d := range cfg.Descriptors {
		if d.Bucket.Interval < minInterval {
			errs = append(errs, fmt.Errorf("descriptors[%d].token_bucket.fill_interval: %s is less than %s", i, d.Bucket.Interval, minInterval))
		}
		if k := keyOf(d.Entries); seen[k] {
			errs = append(errs, fmt.Errorf("descriptors[%d]: %v is there already", i, d.Entries))
		} else {
			seen[k] = true
		}
	}
	return errors.Join(errs...)
}

// newLimiter makes full buckets of what check has let through.
func newLimiter(cfg *config.LocalRateLimit) *limiter {
	l := &limiter{skipDefault: cfg.SkipDefault, exact: map[string]*bucket{}}
	if b := cfg.Bucket; b != nil && b.Max == 0 {
		l.denies = true
	} else if b != nil {
		l.usual = newBucket(*b, false)
	}
	keep := int(cfg.MaxDynamic)
	if keep == 0 {
		keep = defaultDynamic
	}
	for _, d := range cfg.Descriptors {
		if slices.ContainsFunc(d.Entries, func(e [2]string) bool { return e[1] == "" }) {
			l.wild = append(l.wild, &wild{entries: d.Entries, cfg: d, keep: keep, made: map[string]*list.Element{}})
			continue
		}
		l.exact[keyOf(d.Entries)] = newBucket(d.Bucket, d.Shadow)
	}
	return l
}

// defaultDynamic is how many values of a descriptor have a bucket (Envoy's
// max_dynamic_descriptors).
const defaultDynamic = 20

// descriptor is what a request is counted as.
type descriptor struct {
	entries [][2]string
	hits    uint64
}

// match is a bucket of a request's descriptor.
type match struct {
	*bucket
	hits uint64
}

// outcome is what becomes of a request.
type outcome int

const (
	allowed outcome = iota
	refused
	shadowed // it would be refused, but by a descriptor in shadow mode alone
)

// allow takes the tokens of a request. The bucket is the one to tell the client
// of: that which was empty, or the strictest that was asked; nil if none was.
func (l *limiter) allow(descriptors []descriptor) (outcome, *bucket) {
	var found []match
	for _, d := range descriptors {
		if b := l.of(d.entries); b != nil {
			found = append(found, match{b, d.hits})
		}
	}
	// The slowest first: if it refuses, the others lose no token.
	slices.SortStableFunc(found, func(a, b match) int {
		switch {
		case a.rate < b.rate:
			return -1
		case a.rate > b.rate:
			return 1
		}
		return 0
	})
	var told *bucket
	result := allowed
	for _, m := range found {
		switch {
		case m.take(m.hits):
			if told == nil {
				told = m.bucket
			}
		case !m.shadow:
			return refused, m.bucket
		case result == allowed:
			result, told = shadowed, m.bucket
		}
	}
	switch {
	case len(found) > 0 && l.skipDefault:
	case l.denies:
		return refused, nil
	case l.usual == nil:
	case !l.usual.take(1):
		return refused, l.usual
	case told == nil:
		told = l.usual
	}
	return result, told
}

// of is the bucket of a descriptor, nil if it is not limited.
func (l *limiter) of(entries [][2]string) *bucket {
	if b := l.exact[keyOf(entries)]; b != nil {
		return b
	}
	for _, w := range l.wild {
		if w.matches(entries) {
			return w.of(keyOf(entries))
		}
	}
	return nil
}

// keyOf is the same text for the same entries, and for no others.
func keyOf(entries [][2]string) string {
	var b strings.Builder
	for _, e := range entries {
		for _, text := range e {
			b.WriteString(strconv.Itoa(len(text)))
			b.WriteByte(':')
			b.WriteString(text)
		}
	}
	return b.String()
}

// wild is a descriptor that takes any value for some of its keys. Each value
// has a bucket of its own; those that were not asked for longest go.
type wild struct {
	entries [][2]string
	cfg     config.RateDescriptor
	keep    int

	mu   sync.Mutex
	made map[string]*list.Element // guarded by mu; of *named
	used list.List                // guarded by mu; the last used first
}

type named struct {
	key string
	*bucket
}

func (w *wild) matches(entries [][2]string) bool {
	return slices.EqualFunc(w.entries, entries, func(want, is [2]string) bool {
		return want[0] == is[0] && (want[1] == "" || want[1] == is[1])
	})
}

func (w *wild) of(key string) *bucket {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.made[key]; e != nil {
		w.used.MoveToFront(e)
		return bucketOf(e)
	}
	e := w.used.PushFront(&named{key, newBucket(w.cfg.Bucket, w.cfg.Shadow)})
	w.made[key] = e
	if w.used.Len() > w.keep {
		if last, ok := w.used.Remove(w.used.Back()).(*named); ok {
			delete(w.made, last.key)
		}
	}
	return bucketOf(e)
}

func bucketOf(e *list.Element) *bucket {
	n, _ := e.Value.(*named) // nothing else is in the list
	return n.bucket
}
