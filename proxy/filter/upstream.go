package filter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// upstream is what tcp_proxy needs of a cluster.
type upstream interface {
	name() string
	connect(context.Context, cluster.Request) (*leg, error)
	filters() []*config.NetworkFilter
	// attemptsExceeded counts that max_connect_attempts did not suffice.
	attemptsExceeded()
}

// leg is the upstream side of a connection.
type leg struct {
	relay.Conn
	state *tlsmux.State // nil for plaintext
	// account adds to the cluster's byte counters.
	account func(received, sent uint64)
	// ended says that it was the host that ended the connection.
	ended func()
	close func()
	// first is what was read from the host before the relay began.
	first []byte

	exchange *exchange // nil: no metadata exchange on this side
}

// clustersOf adapts Deps.Clusters.
func clustersOf(d *Deps) func(string) upstream {
	return func(name string) upstream {
		if d.Clusters == nil {
			return nil
		}
		c := d.Clusters.Get(name)
		if c == nil {
			return nil
		}
		return living{c}
	}
}

// living is a cluster.Cluster as an upstream.
type living struct{ *cluster.Cluster }

func (l living) name() string                     { return l.Name() }
func (l living) filters() []*config.NetworkFilter { return l.Config().Filters }
func (l living) attemptsExceeded()                { l.ConnectAttemptsExceeded() }

// connect relays on the Conn within cluster.Conn, for only that one can be
// spliced.
func (l living) connect(ctx context.Context, req cluster.Request) (*leg, error) {
	c, err := l.Connect(ctx, req)
	if err != nil {
		return nil, err
	}
	return &leg{
		Conn: c.Conn, state: c.State(), account: c.Account, ended: c.EndedByPeer,
		close: func() { c.Close() },
	}, nil
}

// errClientLeft is why a dial for a client that reset its connection ends.
var errClientLeft = errors.New("the client reset the connection while the upstream was being connected")

// connect connects to the cluster of c, up to max_connect_attempts times. Each
// attempt chooses the cluster anew. Only failures to connect are tried again.
func (p *tcpProxy) connect(ctx context.Context, c *Conn) (*leg, error) {
	if up, target := p.takeAhead(c); up != nil {
		return up, p.connected(c, target, up)
	}
	p.addTLVs(c.Info)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer watchReset(c.Conn, func() { cancel(errClientLeft) })()

	hash, hasHash := p.route.hash(c.Info)
	req := cluster.Request{Hash: hash, HasHash: hasHash, OriginalDst: originalDst(c.Info), Info: c.Info}
	backoff := backoff{next: p.cfg.BackoffBase, base: p.cfg.BackoffBase, max: p.cfg.BackoffMax, rand: p.rand}
	for attempt := uint32(1); ; attempt++ {
		name := p.route.pick(c.Info, p.rand())
		target := p.clusters(name)
		if target == nil {
			return nil, p.noCluster(c, name)
		}
		up, err := target.connect(ctx, req)
		if err == nil {
			return up, p.connected(c, target, up)
		}
		if ctx.Err() == nil {
			if err := p.failed(c, target, err, attempt); err != nil {
				return nil, err
			}
			backoff.wait(ctx)
		}
		if ctx.Err() != nil {
			return nil, abandoned(ctx, err)
		}
	}
}

// originalDst is for ORIGINAL_DST clusters.
func originalDst(info *flow.Info) netip.AddrPort {
	if !info.LocalRestored {
		return netip.AddrPort{}
	}
	return info.Local.AddrPort
}

// The reasons of Envoy's tcp_proxy for closing the downstream connection where
// there is no upstream, in its own spelling, with its UpstreamFailureReason.
const (
	closedConnectFailed = "tcp_initializion_failure:0"
	closedNoHealthy     = "tcp_initializion_failure:1"
	closedResourceLimit = "tcp_initializion_failure:2"
	closedNoRoute       = "tcp_initializion_failure:3"
)

func (p *tcpProxy) noCluster(c *Conn, name string) error {
	p.stats.noRoute.Inc()
	c.Info.LocalCloseReason = closedNoRoute
	return flow.End(flow.StageCluster, flow.NoClusterFound, fmt.Errorf("tcp_proxy: there is no cluster %q", name))
}

// failed is the end of the connection after a failed attempt; nil if there is
// another one to come.
func (p *tcpProxy) failed(c *Conn, target upstream, err error, attempt uint32) error {
	var end *flow.EndError
	if !errors.As(err, &end) {
		end = &flow.EndError{Stage: flow.StageConnect, Flags: flow.UpstreamConnectionFailure, Err: err}
	}
	c.Info.Flags.Set(end.Flags)
	switch {
	case end.Flags.Has(flow.NoHealthyUpstream):
		c.Info.LocalCloseReason = closedNoHealthy
		return end
	case end.Flags.Has(flow.UpstreamOverflow):
		c.Info.LocalCloseReason = closedResourceLimit
		return end
	case end.Flags.Has(flow.NoClusterFound):
		p.stats.noRoute.Inc()
		c.Info.LocalCloseReason = closedNoRoute
		return end
	case attempt < p.cfg.MaxConnectAttempts:
		p.log.Debug("upstream connect attempt failed", "connection_id", c.Info.ID, "attempt", attempt, "error", err)
		return nil
	}
	target.attemptsExceeded()
	c.Info.LocalCloseReason = closedConnectFailed
	return &flow.EndError{Stage: end.Stage, Flags: end.Flags | flow.UpstreamRetryLimitExceeded, Err: end.Err}
}

// abandoned is the end of a connection whose dial was given up.
func abandoned(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	stage := flow.StageConnect
	var end *flow.EndError
	if errors.As(err, &end) {
		stage = end.Stage
	}
	if errors.Is(cause, errClientLeft) {
		return &flow.EndError{Stage: stage, Flags: flow.DownstreamConnectionTermination, Err: cause}
	}
	return &flow.EndError{Stage: stage, Err: fmt.Errorf("connecting was given up: %w", cause)}
}

// backoff is Envoy's jittered exponential back-off: a random time below an
// interval that doubles with each attempt, up to max.
type backoff struct {
	next, base, max time.Duration
	rand            func() uint64
}

func (b *backoff) wait(ctx context.Context) {
	if b.base <= 0 {
		return
	}
	limit := b.max
	if limit <= 0 {
		limit = 10 * b.base // the default of BackoffStrategy.max_interval
	}
	now := min(b.next, limit)
	b.next = min(2*now, limit)
	wait(ctx, time.Duration(b.rand()%uint64(now)))
}
