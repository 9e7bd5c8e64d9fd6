package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// values are the figures of one measure, by metric.
type values map[string]float64

// window is what happened in a span of time.
type window struct {
	count         int64
	elapsed       time.Duration
	proxy, loader time.Duration // CPU time
	other         time.Duration // CPU time of whatever else runs on this machine
}

// during counts over d, after the warm-up. That nothing is done is an error.
func (b *bed) during(ctx context.Context, d time.Duration, count *atomic.Int64) (w window, err error) {
	if err := sleep(ctx, b.h.warmUp); err != nil {
		return w, err
	}
	proxy, err := b.cpu()
	if err != nil {
		return w, err
	}
	loader, err := cpuTime(0)
	if err != nil {
		return w, err
	}
	all, err := machineTime()
	if err != nil {
		return w, err
	}
	begin, n := time.Now(), count.Load()
	if err := sleep(ctx, d); err != nil {
		return w, err
	}
	w.count, w.elapsed = count.Load()-n, time.Since(begin)
	if w.proxy, err = b.cpu(); err != nil {
		return w, err
	}
	if w.count == 0 {
		return w, fmt.Errorf("nothing was done in %s", w.elapsed)
	}
	if w.loader, err = cpuTime(0); err != nil {
		return w, err
	}
	w.other, err = machineTime()
	w.proxy, w.loader = w.proxy-proxy, w.loader-loader
	w.other = max(0, w.other-all-w.proxy-w.loader)
	return w, err
}

// busy are how much of a CPU proxies, load and all else took, in per cent:
// whether a rate is the proxy's limit or the load's, or the machine was not
// quiet.
func (w window) busy(v values) values {
	v["proxy_busy"] = 100 * w.proxy.Seconds() / w.elapsed.Seconds()
	v["load_busy"] = 100 * w.loader.Seconds() / w.elapsed.Seconds()
	v["other_busy"] = 100 * w.other.Seconds() / w.elapsed.Seconds()
	return v
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// crew are goroutines that work until they are told to end; the first error
// before that counts.
type crew struct {
	wait    sync.WaitGroup
	ending  atomic.Bool
	mu      sync.Mutex
	err     error    // guarded by mu
	closers []func() // guarded by mu
}

// add has work done by a goroutine; closer makes it return.
func (c *crew) add(work func() error, closer func()) {
	c.mu.Lock()
	if closer != nil {
		c.closers = append(c.closers, closer)
	}
	c.mu.Unlock()
	c.wait.Go(func() {
		if err := work(); err != nil && !c.ending.Load() {
			c.mu.Lock()
			if c.err == nil {
				c.err = err
			}
			c.mu.Unlock()
		}
	})
}

// measured measures the work once count has come to first, and ends it.
func (c *crew) measured(ctx context.Context, b *bed, count *atomic.Int64, first int64) (window, error) {
	var w window
	err := c.reaches(ctx, count, first)
	if err == nil {
		w, err = b.during(ctx, b.h.time, count)
	}
	if broken := c.end(); broken != nil {
		err = broken
	}
	return w, err
}

// reaches waits until count is n. It is an error if the work fails before, or
// if it takes too long.
func (c *crew) reaches(ctx context.Context, count *atomic.Int64, n int64) error {
	for deadline := time.Now().Add(answerTime); count.Load() < n; {
		c.mu.Lock()
		err := c.err
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d in %s", count.Load(), n, answerTime)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// end ends the work and returns the first error there was while it went on.
func (c *crew) end() error {
	c.ending.Store(true)
	c.mu.Lock()
	for _, closer := range c.closers {
		closer()
	}
	c.mu.Unlock()
	c.wait.Wait()
	return c.err
}

// bulk moves bytes one way over conns connections as fast as they go. They are
// counted at the client.
func bulk(ask byte, conns int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		var moved atomic.Int64
		var load crew
		for range conns {
			c, err := b.dial(ctx)
			if err == nil {
				_, err = c.Write([]byte{ask})
			}
			if err != nil {
				_ = load.end()
				return nil, err
			}
			move := c.Read
			if ask == askUpload {
				move = c.Write
			}
			load.add(func() error {
				buf := make([]byte, loadBuffer)
				for {
					n, err := move(buf)
					moved.Add(int64(n))
					if err != nil {
						return err
					}
				}
			}, func() { c.Close() })
		}
		w, err := load.measured(ctx, b, &moved, int64(conns)<<20)
		if err != nil {
			return nil, err
		}
		gb := float64(w.count) / 1e9
		return w.busy(values{"gbps": gb / w.elapsed.Seconds(), "cpu_s_per_gb": w.proxy.Seconds() / gb}), nil
	}
}

// dialers is how many connections are being made at a time.
const dialers = 16

// connections makes one connection after the other: handshake, a byte there and
// back, close.
func connections(resume bool) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		if resume {
			b.sessions = tls.NewLRUClientSessionCache(dialers * 4)
		}
		var made atomic.Int64
		var load crew
		for range dialers {
			load.add(func() error {
				for !load.ending.Load() {
					c, err := b.dial(ctx)
					if err != nil {
						return err
					}
					err = askOnce(c)
					c.Close()
					if err != nil {
						return err
					}
					made.Add(1)
				}
				return nil
			}, nil)
		}
		w, err := load.measured(ctx, b, &made, dialers)
		if err != nil {
			return nil, err
		}
		resumed := b.resumed.Load()
		if b.origin != nil {
			resumed += b.origin.resumed.Load()
		}
		return w.busy(values{
			"conns_per_cpu_s": float64(w.count) / w.proxy.Seconds(),
			"conns_per_s":     float64(w.count) / w.elapsed.Seconds(),
			"resumed":         100 * float64(resumed) / float64(max(1, made.Load())),
		}), nil
	}
}
