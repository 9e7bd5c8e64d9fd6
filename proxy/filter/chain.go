// Package filter runs the network filters of a filter chain on a connection:
// authorization, metadata exchange and limits in their order, then the
// terminal filter, which proxies, answers or echoes.
//
// A Chain is compiled once and shared by its connections. What a filter
// decides it decides from the flow.Info alone, so that Explain can ask the
// same code what a connection would meet.
package filter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
)

// Deps is what filters are made with.
type Deps struct {
	Stats    *stats.Registry
	Log      *slog.Logger // nil: none
	Clusters Clusters
	Node     *config.Node // nil: an empty one
	// Direction is the listener's.
	Direction config.Direction
	// AccessLogs makes an access log; nil if there are none to make.
	AccessLogs func(*config.AccessLog) (AccessLogger, error)
	// Format compiles a text in the language of access logs; nil knows none.
	Format func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// Lot takes connections in which nothing moves; nil for none.
	Lot *relay.Lot
	// Rand is for weights, jitter and back-off; nil is math/rand/v2's Uint64.
	Rand func() uint64
	// HTTP makes a connection manager, which is a package of its own above
	// this one; nil knows none.
	HTTP func(name string, cfg *config.HTTPConnectionManager) (Terminal, error)
}

// Clusters finds clusters by name; nil if there is none of that name.
type Clusters interface {
	Get(name string) *cluster.Cluster
}

// AccessLogger writes one entry of an access log. It may read all of info, and
// keeps none of it.
type AccessLogger interface {
	Log(info *flow.Info, event AccessEvent)
}

// AccessEvent is why an access log entry is written (Envoy: AccessLogType).
type AccessEvent int

const (
	// EventNotSet is of the access logs of a listener.
	EventNotSet AccessEvent = iota
	// EventEnd, EventConnected and EventPeriodic are of tcp_proxy: the
	// connection has ended, the upstream is connected, an interval is over.
	EventEnd
	EventConnected
	EventPeriodic
)

// String is %ACCESS_LOG_TYPE%.
func (e AccessEvent) String() string {
	switch e {
	case EventEnd:
		return "TcpConnectionEnd"
	case EventConnected:
		return "TcpUpstreamConnected"
	case EventPeriodic:
		return "TcpPeriodic"
	default:
		return "NotSet"
	}
}

// Conn is the downstream side of a connection, after its transport socket.
type Conn struct {
	relay.Conn
	Info *flow.Info
	// Ahead is a connection that was made for this one before it began; nil
	// for none. Who has made it closes it if Serve has not used it.
	Ahead *Ahead
	// Connected, if not nil, is called when tcp_proxy has an upstream, which is
	// in Info then, and before anything goes to it.
	Connected func()
	// Draining is done when the connection should make no more requests, where
	// its protocol has a word for that; nil for never.
	Draining context.Context

	// during are the reporters that count this connection.
	during []*observation
	// prologue reads what a filter expects before the first application byte;
	// nil for nothing.
	prologue func(relay.Conn) ([]byte, error)
	// mu guards Info while the relay runs: its prologues write, periodic
	// access logs read.
	mu sync.Mutex
}

// ReadLazy is that of the connection itself (relay.Lazy).
func (c *Conn) ReadLazy(b relay.Buffer) (int, error) { return relay.ReadLazy(c.Conn, b) }

// filter is a network filter that is not terminal.
type filter interface {
	// admit lets the connection pass or says why it does not; it may wait.
	// done, if not nil, is called when the connection has ended, in either
	// case.
	admit(ctx context.Context, c *Conn) (done func(), err error)
	// explain is what admit would say, without any effect but on info, which
	// is a copy.
	explain(info *flow.Info) Verdict
}

// Terminal is a filter that ends a chain.
type Terminal interface {
	// Begin counts the connection in, before any filter. end is called with
	// everything known.
	Begin(c *Conn) (end func())
	// Serve carries the connection to its end.
	Serve(ctx context.Context, c *Conn) error
	// Explain is what Serve would do, without any effect.
	Explain(info *flow.Info) Verdict
	// Close ends what the filter has running of its own; connections go on.
	Close()
}

// parker is a Terminal that lets a quiet connection go on without a goroutine.
type parker interface {
	// serve is Serve that tells done, once and as the last thing, and may return
	// before.
	serve(ctx context.Context, c *Conn, done func(error))
}

// Chain is the network filters of one filter chain. It is safe for concurrent
// use.
type Chain struct {
	filters   []filter
	reporters []*reporter // they decide nothing, and see connections that a filter refuses
	terminal  Terminal
}

// NewChain compiles the filters of a chain: none or more, then one that is
// terminal. Every mistake is in the error.
func NewChain(cfg []*config.NetworkFilter, d Deps) (*Chain, error) {
	d = d.withDefaults()
	ch := &Chain{}
	var errs []error
	for i, f := range cfg {
		if err := ch.add(f, &d); err != nil {
			errs = append(errs, fmt.Errorf("filters[%d] %q: %w", i, f.Name, err))
		}
	}
	switch {
	case len(errs) > 0:
	case ch.terminal == nil:
		errs = append(errs, errors.New("filters: the last one is not a terminal filter"))
	default:
		errs = append(errs, checkOrder(cfg))
	}
	if err := errors.Join(errs...); err != nil {
		ch.Close()
		return nil, err
	}
	return ch, nil
}

func (d Deps) withDefaults() Deps {
	if d.Stats == nil {
		d.Stats = stats.New()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Node == nil {
		d.Node = &config.Node{}
	}
	if d.Rand == nil {
		d.Rand = rand.Uint64
	}
	return d
}

// add compiles one filter.
func (ch *Chain) add(f *config.NetworkFilter, d *Deps) error {
	if ch.terminal != nil {
		return errors.New("it comes after a terminal filter")
	}
	var made filter
	var err error
	switch {
	case f.RBAC != nil:
		made, err = newRBAC(f.Name, f.RBAC, d)
	case f.MetadataExchange != nil:
		made, err = newMetadataExchange(f.Name, f.MetadataExchange, d)
	case f.SNICluster != nil:
		made = &sniCluster{name: f.Name}
	case f.IstioStats != nil:
		return ch.addReporter(f.IstioStats, d)
	case f.ConnectionLimit != nil:
		made = newConnectionLimit(f.Name, f.ConnectionLimit, d)
	default:
		return ch.addTerminal(f, d)
	}
	if err == nil {
		ch.filters = append(ch.filters, made)
	}
	return err
}

func (ch *Chain) addTerminal(f *config.NetworkFilter, d *Deps) error {
	switch {
	case f.TCPProxy != nil:
		p, err := newTCPProxy(f.Name, f.TCPProxy, d)
		if err != nil {
			return err
		}
		ch.terminal = p
	case f.DirectResponse != nil:
		ch.terminal = &directResponse{name: f.Name, body: f.DirectResponse.Body}
	case f.Echo != nil:
		ch.terminal = &echo{name: f.Name}
	case f.HTTP != nil && d.HTTP != nil:
		m, err := d.HTTP(f.Name, f.HTTP)
		if err != nil {
			return err
		}
		ch.terminal = m
	default:
		return errors.New("no filter is configured")
	}
	return nil
}

// Serve takes a connection through the filters, in their order, and then
// through the terminal one. It tells done, once and as the last thing, how the
// connection has ended, soon after ctx has at the latest, and may return before:
// a connection that is quiet needs no goroutine. Closing c is the caller's. The
// error is a *flow.EndError; nil is an end in order.
func (ch *Chain) Serve(ctx context.Context, c *Conn, done func(error)) {
	left := []func(){ch.terminal.Begin(c), ch.report(c)}
	leave := func(err error) error {
		err = noteEnd(ctx, c, err)
		for _, f := range slices.Backward(left) {
			f()
		}
		left = nil
		return err
	}
	over := func(err error) { done(leave(err)) }
	panicking := true // until it is known better
	defer func() {
		if panicking {
			_ = leave(nil) // whoever recovers has the error
		}
	}()
	failed := ch.admit(ctx, c, &left)
	parks, ok := ch.terminal.(parker)
	switch {
	case failed != nil:
	case ok:
		parks.serve(ctx, c, over)
		panicking = false
		return
	default:
		failed = ch.terminal.Serve(ctx, c)
	}
	panicking = false
	over(failed)
}

// admit takes the connection through the filters that are not terminal. What is
// due when it has ended is added to left.
func (ch *Chain) admit(ctx context.Context, c *Conn, left *[]func()) error {
	for _, f := range ch.filters {
		leave, err := f.admit(ctx, c)
		if leave != nil {
			*left = append(*left, leave)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noteEnd notes in c how it has ended, and returns err, or what ctx knows better.
func noteEnd(ctx context.Context, c *Conn, err error) error {
	var ended, why *flow.EndError
	if err != nil && errors.As(context.Cause(ctx), &why) {
		err = why
		c.Info.LocalCloseReason = why.Details
	}
	if errors.As(err, &ended) {
		c.Info.Flags.Set(ended.Flags)
		c.Info.TerminationDetails = cmp.Or(ended.Details, c.Info.TerminationDetails)
	}
	c.Info.End = time.Now()
	return err
}

// Refused counts and logs a connection that the chain's transport socket has
// refused, as Envoy does, whose filters are there before the handshake.
func (ch *Chain) Refused(info *flow.Info) {
	c := &Conn{Info: info}
	end, report := ch.terminal.Begin(c), ch.report(c)
	info.End = time.Now()
	report()
	end()
}

// Close ends what the chain has running of its own; connections go on. Its
// metrics stay: other chains, or the next version of this one, count under the
// same names.
func (ch *Chain) Close() {
	if ch.terminal != nil {
		ch.terminal.Close()
	}
	for _, r := range ch.reporters {
		r.close()
	}
}

// Explain is what each filter would do with a connection that info describes,
// up to the first that refuses it. Nothing is counted or changed.
func (ch *Chain) Explain(info *flow.Info) []Verdict {
	info = scratch(info)
	var all []Verdict
	for _, f := range ch.filters {
		v := f.explain(info)
		all = append(all, v)
		if v.Denied {
			return all
		}
	}
	return append(all, ch.terminal.Explain(info))
}

// Clusters are those that a connection like info may be sent to, if no filter
// refuses it.
func (ch *Chain) Clusters(info *flow.Info) []string {
	info = scratch(info)
	for _, f := range ch.filters {
		f.explain(info)
	}
	var names []string
	for _, c := range ch.terminal.Explain(info).Clusters {
		names = append(names, c.Cluster)
	}
	return names
}

// wait blocks for a time, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// at says where err is; nil if there is none.
func at(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
