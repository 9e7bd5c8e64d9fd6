package filter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// Ahead is a connection to where a chain would take a client, made before it
// is known whether the client belongs to the chain: the client is silent, and
// perhaps it is the server that speaks first.
//
// It belongs to one goroutine at a time. A Conn that has it uses it in place
// of a connection of its own; else it must be closed.
type Ahead struct {
	proxy   *tcpProxy
	cluster string
	target  upstream
	info    *flow.Info // a copy, which gets the upstream part
	up      *leg       // nil before Connect, and when it was closed or used
	first   []byte     // what the server has said
}

// Ahead is for a connection that info describes: nil, with the reason, if it
// must not be connected, because a filter refuses it, or if it cannot be before
// it has begun. Nothing is counted, and info is not changed.
func (ch *Chain) Ahead(info *flow.Info) (a *Ahead, reason string) {
	p, ok := ch.terminal.(*tcpProxy)
	if !ok {
		return nil, "the chain ends here, and has no server"
	}
	facts := scratch(info)
	facts.ID, facts.Start = info.ID, info.Start
	for _, f := range ch.filters {
		if v := f.explain(facts); v.Denied {
			return nil, v.Reason
		}
	}
	name := p.route.pick(facts, p.rand())
	target := p.clusters(name)
	switch {
	case target == nil:
		return nil, fmt.Sprintf("there is no cluster %q", name)
	case len(target.filters()) > 0:
		return nil, fmt.Sprintf("cluster %q has upstream filters, which speak before the server", name)
	}
	return &Ahead{proxy: p, cluster: name, target: target, info: facts}, ""
}

// Cluster is the name of the cluster that is connected to.
func (a *Ahead) Cluster() string { return a.cluster }

// Connect connects, once: there is no second attempt. It blocks until then, or
// until ctx ends.
func (a *Ahead) Connect(ctx context.Context) error {
	a.proxy.addTLVs(a.info)
	hash, hasHash := a.proxy.route.hash(a.info)
	up, err := a.target.connect(ctx, cluster.Request{
		Hash: hash, HasHash: hasHash, OriginalDst: originalDst(a.info), Info: a.info,
	})
	if err != nil {
		return err
	}
	a.up = up
	return nil
}

// maxGreeting is how much is read of what the server says first; the rest
// waits in the socket. A greeting of MySQL has some 80 bytes, one of SMTP at
// most 512 (RFC 5321, section 4.5.3.1.5).
const maxGreeting = 4 << 10

// FirstByte waits until the server has said something. The error is io.EOF if
// it ended without, the failure of the connection, or ctx's, after which the
// connection is as good as before.
func (a *Ahead) FirstByte(ctx context.Context) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = a.up.SetReadDeadline(time.Unix(1, 0))
		close(woken)
	})
	err := a.read()
	if !stop() {
		<-woken
		_ = a.up.SetReadDeadline(time.Time{})
		if err != nil {
			return ctx.Err()
		}
	}
	return err
}

func (a *Ahead) read() error {
	if err := a.up.WaitReadable(); err != nil {
		return err
	}
	b := make([]byte, maxGreeting)
	n, err := a.up.Read(b)
	if n > 0 {
		a.first = b[:n:n]
		return nil
	}
	return err
}

// Close closes the connection unless it has been used. It may be called on
// nil, and more than once.
func (a *Ahead) Close() {
	if a != nil && a.up != nil {
		a.up.close()
		a.up = nil
	}
}

// Connected reports whether there is a connection to use.
func (a *Ahead) Connected() bool { return a != nil && a.up != nil }

// takeAhead is the connection that was made ahead for c; nil if there is none
// that this filter would have made.
func (p *tcpProxy) takeAhead(c *Conn) (*leg, upstream) {
	a := c.Ahead
	if !a.Connected() || a.proxy != p || !p.route.mayPick(c.Info, a.cluster) {
		return nil, nil
	}
	up := a.up
	a.up = nil
	up.first = a.first
	takeUpstream(c.Info, a.info)
	return up, a.target
}

// mayPick reports whether pick may choose the cluster name.
func (r *route) mayPick(info *flow.Info, name string) bool {
	if len(r.weighted) == 0 {
		return r.single(info) == name
	}
	return slices.ContainsFunc(r.weighted, func(w config.WeightedCluster) bool { return w.Name == name })
}

// takeUpstream copies the upstream part.
func takeUpstream(to, from *flow.Info) {
	to.UpstreamCluster, to.UpstreamClusterStat = from.UpstreamCluster, from.UpstreamClusterStat
	to.UpstreamHost, to.UpstreamHostname, to.UpstreamLocal = from.UpstreamHost, from.UpstreamHostname, from.UpstreamLocal
	to.Upstream, to.UpstreamFailure, to.UpstreamAttempts = from.Upstream, from.UpstreamFailure, from.UpstreamAttempts
	to.UpstreamConnected, to.UpstreamDial, to.UpstreamDialed = from.UpstreamConnected, from.UpstreamDial, from.UpstreamDialed
	to.ClusterMetadata, to.UpstreamMetadata = from.ClusterMetadata, from.UpstreamMetadata
	to.TransportSocketMatch = from.TransportSocketMatch
}
