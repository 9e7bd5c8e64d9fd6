package filter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"outrider/proxy/flow"
	"outrider/proxy/relay"
)

// connected does what is due when the upstream is there: the upstream filters
// and the access logs. On an error, up is closed.
func (p *tcpProxy) connected(c *Conn, target upstream, up *leg) error {
	err := p.beginUpstream(c, target, up)
	if err != nil {
		up.close()
		return err
	}
	if c.Connected != nil {
		c.Connected()
	}
	if p.cfg.FlushOnConnected {
		p.logAccess(c, EventConnected)
	}
	return nil
}

// relay moves bytes until the connection has ended, and tells done how.
func (p *tcpProxy) relay(ctx context.Context, c *Conn, up *leg, done func(error)) {
	info := c.Info
	leave := p.live.enter(&entry{
		info: info, rx: p.stats.rxBytes, tx: p.stats.txBytes, account: up.account,
	})
	stopLog, stopCounting := p.logPeriodically(ctx, c), c.observe()
	o := relay.Options{
		IdleTimeout:     p.cfg.IdleTimeout,
		Lot:             p.deps.Lot,
		DownstreamFirst: c.prologue,
		FromDownstream:  &info.Received, ToDownstream: &info.Sent,
		FromUpstream: &info.UpstreamReceived, ToUpstream: &info.UpstreamSent,
	}
	switch {
	case up.exchange != nil:
		o.UpstreamFirst = up.exchange.prologue
	case len(up.first) > 0:
		o.UpstreamFirst = func(relay.Conn) ([]byte, error) { return up.first, nil }
	}
	relay.Start(ctx, c.Conn, up.Conn, o, func(res relay.Result) {
		stopLog()
		stopCounting()
		leave()
		if res.FirstEOF == 'u' || res.Cause == relay.UpstreamReset {
			up.ended()
		}
		done(p.ended(c, up, res))
	})
}

// ended turns the end of the relay into the connection's. A reset is passed on
// as a reset, so that neither side takes what it has for complete.
func (p *tcpProxy) ended(c *Conn, up *leg, res relay.Result) error {
	end := &flow.EndError{Stage: flow.StageRelay}
	switch res.Cause {
	case relay.Finished:
		return nil
	case relay.DownstreamReset:
		resetOnClose(up.Conn)
		c.Info.DownstreamReset = flow.ResetByPeer
		end.Err = fmt.Errorf("downstream: %w", orUnknown(res.Err))
	case relay.UpstreamReset:
		resetOnClose(c.Conn)
		c.Info.DownstreamReset, c.Info.UpstreamReset = flow.ResetByUs, flow.ResetByPeer
		if errors.Is(res.Err, syscall.ECONNRESET) || errors.Is(res.Err, syscall.EPIPE) {
			end.Flags = flow.UpstreamRemoteReset
		}
		end.Err = fmt.Errorf("upstream: %w", orUnknown(res.Err))
	case relay.Idle:
		p.stats.idleTimeout.Inc()
		c.Info.LocalCloseReason = "tcp_session_idle_timeout"
		end.Err = fmt.Errorf("idle_timeout: %w", orUnknown(res.Err))
	case relay.Stopped:
		end.Err = fmt.Errorf("ended: %w", orUnknown(res.Err))
	}
	return end
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("unknown")
	}
	return err
}

// logPeriodically writes an entry each FlushInterval. The function that it
// returns waits for the last one.
func (p *tcpProxy) logPeriodically(ctx context.Context, c *Conn) (stop func()) {
	if p.cfg.FlushInterval <= 0 || len(p.logs) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(p.cfg.FlushInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.logAccess(c, EventPeriodic)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}
