package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// echoBytes is the size of a message that goes there and comes back.
const echoBytes = 1024

// echoConns dials connections that echo.
func (b *bed) echoConns(ctx context.Context, n int) (conns []net.Conn, err error) {
	for range n {
		c, err := b.dial(ctx)
		if err == nil {
			conns = append(conns, c)
			_, err = c.Write([]byte{askEcho})
		}
		if err != nil {
			closeAll(conns)
			return nil, err
		}
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// saturate has conns connections send a message when the last one is back.
func saturate(conns int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		all, err := b.echoConns(ctx, conns)
		if err != nil {
			return nil, err
		}
		var turns atomic.Int64
		var load crew
		for _, c := range all {
			load.add(func() error {
				buf := make([]byte, echoBytes)
				for {
					if _, err := c.Write(buf); err != nil {
						return err
					}
					if _, err := io.ReadFull(c, buf); err != nil {
						return err
					}
					turns.Add(1)
				}
			}, func() { c.Close() })
		}
		w, err := load.measured(ctx, b, &turns, int64(conns))
		if err != nil {
			return nil, err
		}
		return w.busy(values{
			"per_s":     float64(w.count) / w.elapsed.Seconds(),
			"per_cpu_s": float64(w.count) / w.proxy.Seconds(),
		}), nil
	}
}

// paced sends rate messages a second over conns connections, each when it is
// due whether or not those before it are back, and measures from when it was
// due. The times are of the whole span after the warm-up.
func paced(rate, conns int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		all, err := b.echoConns(ctx, conns)
		if err != nil {
			return nil, err
		}
		times := &latencies{skip: int64(b.h.warmUp.Seconds() * float64(rate))}
		var load crew
		begin := time.Now().Add(10 * time.Millisecond)
		every := time.Second / time.Duration(rate)
		for _, c := range all {
			load.add(func() error { return times.receive(c, begin, every) }, func() { c.Close() })
		}
		total := times.skip + int64(b.h.paceTime().Seconds()*float64(rate))
		err = pace(ctx, begin, every, total, func(i int64) error {
			message := make([]byte, echoBytes)
			binary.BigEndian.PutUint64(message, uint64(i))
			_, err := all[i%int64(len(all))].Write(message)
			return err
		})
		if err == nil {
			err = times.await(ctx, total-times.skip)
		}
		if broken := load.end(); broken != nil {
			err = broken
		}
		if err != nil {
			return nil, err
		}
		return times.quantiles(), nil
	}
}

// pace calls each for 0 to n-1 when it is due. A timer of the kernel's wakes
// it, for Go's own are a millisecond late where nothing else goes on.
func pace(ctx context.Context, begin time.Time, every time.Duration, n int64, each func(int64) error) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	timer := os.NewFile(uintptr(fd), "timer")
	defer timer.Close()
	spec := unix.ItimerSpec{
		Interval: unix.NsecToTimespec(every.Nanoseconds()),
		Value:    unix.NsecToTimespec(max(1, time.Until(begin).Nanoseconds())),
	}
	if err := unix.TimerfdSettime(fd, 0, &spec, nil); err != nil {
		return err
	}
	var buf [8]byte
	for i := int64(0); i < n; {
		if _, err := timer.Read(buf[:]); err != nil {
			return err
		}
		for due := int64(time.Since(begin) / every); i < n && i <= due; i++ {
			if err := each(i); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// latencies collects times; those of the first messages are not kept.
type latencies struct {
	skip int64
	mu   sync.Mutex
	all  []time.Duration // guarded by mu
}

// receive reads the messages that come back on one connection.
func (l *latencies) receive(c net.Conn, begin time.Time, every time.Duration) error {
	buf := make([]byte, echoBytes)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		i := int64(binary.BigEndian.Uint64(buf))
		took := time.Since(begin.Add(time.Duration(i) * every))
		if i < l.skip {
			continue
		}
		l.mu.Lock()
		l.all = append(l.all, took)
		l.mu.Unlock()
	}
}

// await waits until n times are there.
func (l *latencies) await(ctx context.Context, n int64) error {
	for deadline := time.Now().Add(answerTime); time.Now().Before(deadline); {
		l.mu.Lock()
		have := int64(len(l.all))
		l.mu.Unlock()
		if have >= n {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("not every one of %d messages came back in %s", n, answerTime)
}

func (l *latencies) quantiles() values {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.all)
	at := func(q float64) float64 {
		return float64(l.all[int(q*float64(len(l.all)-1))].Nanoseconds()) / 1e3
	}
	return values{"p50_us": at(0.50), "p99_us": at(0.99), "p999_us": at(0.999)}
}
