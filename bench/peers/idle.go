package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// settle is how long a proxy is left alone before its memory is measured: some
// give it back only after a while.
const settle = 6 * time.Second

// idleMemory opens connections, each used once, and measures what the proxies
// hold for each while nothing happens.
func idleMemory(counts ...int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
		empty, _, err := b.memory()
		if err != nil {
			return nil, err
		}
		v := values{}
		var open []net.Conn
		defer func() { closeAll(open) }()
		for _, want := range counts {
			n := allowed(want)
			more, err := b.openMany(ctx, n-len(open))
			open = append(open, more...)
			if err != nil {
				return v, fmt.Errorf("at %d connections: %w", len(open), err)
			}
			if err := sleep(ctx, settle); err != nil {
				return v, err
			}
			full, _, err := b.memory()
			if err != nil {
				return v, err
			}
			v[fmt.Sprintf("kib_per_conn_%d", want)] = float64(full-empty) / 1024 / float64(n)
			v[fmt.Sprintf("conns_%d", want)] = float64(n)
		}
		return v, nil
	}
}

// spareFiles is how many files a process needs beside its connections.
const spareFiles = 200

// allowed is how many of n connections the limit of open files allows: this
// process holds both ends of each, as does a proxy.
func allowed(n int) int { return min(n, (filesAllowed()-spareFiles)/2) }

// openMany opens n connections that have echoed once.
func (b *bed) openMany(ctx context.Context, n int) ([]net.Conn, error) {
	var left atomic.Int64
	left.Store(int64(n))
	var mu sync.Mutex
	var open []net.Conn // guarded by mu
	var load crew
	for range dialers {
		load.add(func() error {
			for left.Add(-1) >= 0 {
				c, err := b.dial(ctx)
				if err != nil {
					return err
				}
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
				if err := askOnce(c); err != nil {
					return err
				}
			}
			return nil
		}, nil)
	}
	load.wait.Wait()
	return open, load.end()
}

// atRest is what a proxy takes when it has nothing to do, and how long it took
// to be ready.
func atRest(ctx context.Context, b *bed) (values, error) {
	if err := sleep(ctx, settle); err != nil {
		return nil, err
	}
	pss, rss, err := b.memory()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(b.peer.binary)
	if err != nil {
		return nil, err
	}
	return values{
		"pss_mib": float64(pss) / (1 << 20), "rss_mib": float64(rss) / (1 << 20),
		"ready_ms": float64(b.ready.Microseconds()) / 1e3, "binary_mib": float64(info.Size()) / (1 << 20),
	}, nil
}
