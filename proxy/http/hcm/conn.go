package hcm

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	netfilter "outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
	"outrider/proxy/relay"
)

// conn is one downstream connection.
type conn struct {
	m     *Manager
	info  *flow.Info
	codec codec.Server
	side  relay.Conn
	http2 bool

	// asyncs are goroutines that filters of its requests have started.
	asyncs   sync.WaitGroup
	requests atomic.Uint64
	active   atomic.Int64
	began    time.Time
	idleFrom atomic.Int64 // nanoseconds since began
	draining atomic.Bool

	mu     sync.Mutex
	xfcc   xfcc
	sweep  sweep         // guarded by mu
	timers []*time.Timer // guarded by mu; nil after the end
	ended  bool          // guarded by mu
}

// serve finds out the protocol and serves the connection's requests.
func (m *Manager) serve(ctx context.Context, c *netfilter.Conn) error {
	first := time.Now()
	m.stats.opened(c.Info)
	defer func() { m.stats.closed(c.Info, time.Since(first)) }()
	side, proto, err := m.detect(ctx, c)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return flow.End(flow.StageRelay, 0, err)
	}
	cn := &conn{m: m, info: c.Info, side: side, http2: proto == codec.HTTP2, began: first}
	if cn.http2 {
		cn.codec = h2.NewServer(side, cn, m.h2)
	} else {
		cn.codec = h1.NewServer(side, cn, m.h1)
	}
	m.stats.protocol(proto, 1)
	defer m.stats.protocol(proto, -1)
	stop := context.AfterFunc(ctx, cn.codec.Close)
	defer stop()
	cn.startTimers()
	if c.Draining != nil {
		defer context.AfterFunc(c.Draining, cn.drain)()
	}
	end := cn.codec.Serve()
	cn.stopTimers()
	cn.asyncs.Wait()
	return cn.finish(ctx, end)
}

// finish is how the connection ended, for the listener's log.
func (cn *conn) finish(ctx context.Context, end *codec.End) error {
	cn.info.Received.Add(end.BytesRead)
	cn.info.Sent.Add(end.BytesWritten)
	cn.m.stats.bytes(end)
	switch {
	case ctx.Err() != nil:
		return flow.End(flow.StageRelay, 0, context.Cause(ctx))
	case end.By == codec.ByRST:
		cn.info.DownstreamReset = flow.ResetByPeer
	}
	if end.Err != nil && end.By != codec.ByFIN {
		return flow.End(flow.StageRelay, 0, end.Err)
	}
	return nil
}

// Request begins a request (codec.Requests).
func (cn *conn) Request(s codec.Sender) codec.Receiver {
	n := cn.requests.Add(1)
	cn.active.Add(1)
	cn.m.stats.begin(cn)
	if limit := cn.m.cfg.Common.MaxRequests; limit > 0 && n >= uint64(limit) {
		cn.m.stats.maxRequests.Inc()
		cn.drain()
	}
	st := newStream(cn, s)
	cn.remember(st)
	return st
}

// Idle is called when no request is open (codec.Requests).
func (cn *conn) Idle() { cn.idleSince(time.Now()) }

func (cn *conn) idleSince(t time.Time) { cn.idleFrom.Store(int64(t.Sub(cn.began))) }

// drain tells the client to make no more requests, and ends the connection
// after those that are open.
func (cn *conn) drain() {
	if cn.draining.Swap(true) {
		return
	}
	cn.codec.Drain(false)
	cn.after(cn.m.cfg.DrainTimeout, func() { cn.codec.Drain(true) })
}

func (cn *conn) startTimers() {
	if d := cn.m.cfg.Common.MaxDuration; d > 0 {
		cn.after(d, func() {
			cn.m.stats.maxDuration.Inc()
			cn.drain()
		})
	}
	if d := cn.m.cfg.Common.IdleTimeout; d > 0 {
		cn.watchIdle(d, d)
	}
}

// watchIdle looks again when the connection may have been idle for long
// enough, so that requests need not touch a timer.
func (cn *conn) watchIdle(limit, next time.Duration) {
	cn.after(next, func() {
		idle := time.Since(cn.began) - time.Duration(cn.idleFrom.Load())
		switch {
		case cn.active.Load() > 0:
			cn.watchIdle(limit, limit)
		case idle < limit:
			cn.watchIdle(limit, limit-idle)
		default:
			cn.m.stats.idleTimeout.Inc()
			if cn.http2 {
				cn.drain()
			} else {
				cn.codec.Close()
			}
		}
	})
}

// after runs f in d unless the connection ends before.
func (cn *conn) after(d time.Duration, f func()) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if !cn.ended {
		cn.timers = append(cn.timers, time.AfterFunc(d, f))
	}
}

func (cn *conn) stopTimers() {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.ended = true
	for _, t := range cn.timers {
		t.Stop()
	}
	cn.timers = nil
	if cn.sweep.timer != nil {
		cn.sweep.timer.Stop()
	}
}

// preface is how an HTTP/2 connection begins (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2"

// detect is the protocol of a connection: the configured one, what ALPN chose,
// or what the first bytes say.
func (m *Manager) detect(ctx context.Context, c *netfilter.Conn) (relay.Conn, codec.Protocol, error) {
	switch m.cfg.Codec {
	case config.CodecHTTP1:
		return c, codec.HTTP11, nil
	case config.CodecHTTP2:
		return c, codec.HTTP2, nil
	}
	if tls := c.Info.Downstream; tls != nil {
		switch tls.ALPN {
		case "h2", "istio-h2":
			return c, codec.HTTP2, nil
		case "http/1.1", "http/1.0", "istio-http/1.1", "istio-http/1.0":
			return c, codec.HTTP11, nil
		}
	}
	return m.sniff(ctx, c)
}

// sniff waits for the first bytes.
func (m *Manager) sniff(ctx context.Context, c *netfilter.Conn) (relay.Conn, codec.Protocol, error) {
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	if d := m.cfg.Common.IdleTimeout; d > 0 {
		_ = c.SetReadDeadline(time.Now().Add(d))
	}
	if err := c.WaitReadable(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			m.stats.idleTimeout.Inc()
		}
		return nil, 0, err
	}
	first := make([]byte, 0, 2048)
	for {
		n, err := c.Read(first[len(first):cap(first)])
		first = first[:len(first)+n]
		if err != nil && len(first) == 0 {
			return nil, 0, err
		}
		begun := min(len(first), len(preface))
		same := string(first[:begun]) == preface[:begun]
		if same && begun < len(preface) && err == nil {
			continue
		}
		_ = c.SetReadDeadline(time.Time{})
		proto := codec.HTTP11
		if same && begun == len(preface) {
			proto = codec.HTTP2
		}
		return &replayed{Conn: c, first: first}, proto, nil
	}
}

// replayed is a connection with bytes put back.
type replayed struct {
	relay.Conn
	first []byte
}

// Read gives the bytes that were put back first.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	if len(r.first) == 0 {
		r.first = nil
	}
	return n, nil
}

// WaitReadable returns at once while there are such bytes.
func (r *replayed) WaitReadable() error {
	if len(r.first) > 0 {
		return nil
	}
	return r.Conn.WaitReadable()
}

// ReadLazy gives the bytes that were put back first (relay.Lazy).
func (r *replayed) ReadLazy(b relay.Buffer) (int, error) {
	if len(r.first) > 0 {
		return r.Read(b.Take())
	}
	return relay.ReadLazy(r.Conn, b)
}
