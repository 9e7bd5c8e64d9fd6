package filter

import (
	"context"
	"sync"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/istio/telemetry"
)

// reporter is istio.stats of a chain: it counts connections, also those that a
// filter or the transport socket refuses, as in Envoy, where it is there before
// them.
type reporter struct {
	*telemetry.Reporter
	stop    context.CancelFunc
	running sync.WaitGroup
}

func (ch *Chain) addReporter(cfg *config.IstioStats, d *Deps) error {
	made, err := telemetry.New(cfg, telemetry.Deps{
		Stats: d.Stats, Node: d.Node, Direction: d.Direction,
		Cluster: func(name string) *config.Cluster {
			if d.Clusters == nil {
				return nil
			}
			if c := d.Clusters.Get(name); c != nil {
				return c.Config()
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	r := &reporter{Reporter: made, stop: func() {}}
	if cfg.Rotation > 0 {
		var ctx context.Context
		ctx, r.stop = context.WithCancel(context.Background())
		r.running.Go(func() { _ = made.Run(ctx) }) // its end is always ctx's
	}
	ch.reporters = append(ch.reporters, r)
	return nil
}

// close ends what runs; open connections are still counted.
func (r *reporter) close() {
	r.stop()
	r.running.Wait()
}

// observation is one reporter on one connection.
type observation struct {
	connection *telemetry.Connection
	every      time.Duration
	timer      *time.Timer // guarded by the connection's mu; nil: it does not run
}

// report begins to count a connection; over counts its end.
func (ch *Chain) report(c *Conn) (over func()) {
	if len(ch.reporters) == 0 {
		return func() {}
	}
	for _, r := range ch.reporters {
		c.during = append(c.during, &observation{connection: r.Connection(), every: r.Every()})
	}
	return func() {
		for _, o := range c.during {
			o.connection.Report(c.Info, true)
		}
	}
}

// observe counts the connection while it is relayed, until stop.
func (c *Conn) observe() (stop func()) {
	if len(c.during) == 0 {
		return func() {}
	}
	for _, o := range c.during {
		if o.every > 0 {
			o.start(c)
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, o := range c.during {
			o.stop()
		}
	}
}

// start has the connection counted every so often. One timer is less than a
// goroutine.
func (o *observation) start(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o.timer = time.AfterFunc(o.every, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if o.timer != nil {
			o.connection.Report(c.Info, false)
			o.timer.Reset(o.every)
		}
	})
}

// stop is called with the connection's mu held.
func (o *observation) stop() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
}
