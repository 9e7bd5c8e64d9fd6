package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// Filters are the compiled listener filters of one listener.
type Filters struct {
	steps       []step
	timeout     time.Duration // 0: none
	partial     time.Duration // partialTimeout
	goOn        bool          // continue_on_listener_filters_timeout
	transparent bool
	bound       netip.AddrPort // the listener's own address
	stats       *filterStats
	waiting     *Waiting
	restore     func(c net.Conn, local netip.AddrPort) (netip.AddrPort, bool, error)
}

// step is one filter with its predicate.
type step struct {
	name     string
	disabled *config.ListenerFilterPredicate
	run      func(*inspection) error
	// required says that a timeout must not skip the filter.
	required bool
	// inspects says that the filter only looks at the client's bytes.
	inspects bool
}

// Deps is what listener filters are made with.
type Deps struct {
	Stats *stats.Registry
	// Listener is the scope listener.<address>.
	Listener *stats.Scope
	// Waiting bounds the connections that wait in listener filters; nil has
	// no bound. All listeners of a process share one.
	Waiting *Waiting
}

// Compile makes the listener filters of cfg, in their order. An error names
// the filter that is of no known kind.
func Compile(cfg *config.Listener, deps Deps) (*Filters, error) {
	f := &Filters{
		timeout: cfg.FiltersTimeout, goOn: cfg.ContinueOnTimeout, transparent: cfg.Transparent,
		partial: partialTimeout, bound: cfg.Address.AddrPort, stats: newFilterStats(deps.Stats, deps.Listener), waiting: deps.Waiting,
		restore: systemOriginalDst,
	}
	for i, lf := range cfg.Filters {
		s := step{name: lf.Name, disabled: lf.Disabled, inspects: inspects(lf)}
		switch {
		case lf.OriginalDst != nil:
			s.run = (*inspection).originalDst
		case lf.OriginalSrc != nil:
			s.run = originalSrc(*lf.OriginalSrc)
		case lf.TLSInspector != nil:
			s.run = newTLSInspector(lf.TLSInspector).inspect
		case lf.HTTPInspector != nil:
			s.run = (*inspection).http
		case lf.ProxyProtocol != nil:
			s.run = newProxyProtocol(lf.ProxyProtocol, deps.Stats).read
			s.required = !lf.ProxyProtocol.AllowWithout
		default:
			return nil, fmt.Errorf("listener_filters[%d]: %q is of no known kind", i, lf.Name)
		}
		f.steps = append(f.steps, s)
	}
	return f, nil
}

// partialTimeout bounds a client that has begun a ClientHello or a header and
// does not finish it, where listener_filters_timeout is 0. Envoy has no such
// bound: there it holds its connection for ever. 15 s is Envoy's default of
// listener_filters_timeout.
const partialTimeout = 15 * time.Second

// Run takes a connection through the filters, which put what they find into
// info: Local, LocalRestored, Remote, TransportProtocol, SNI, ALPNs,
// DownstreamFailure, dynamic metadata. Nothing is consumed but a PROXY header,
// and c is not wrapped. While the client has sent nothing, or not enough, no
// buffer is held.
//
// The error is an *Error, or the cause of ctx, and ends the connection; c is
// not closed. A client that sends nothing is waited for as long as
// listener_filters_timeout says; 0 is for ever, until ctx ends or the
// connection is shed.
func (f *Filters) Run(ctx context.Context, c net.Conn, info *flow.Info) error {
	_, err := f.RunWatching(ctx, c, info, nil)
	return err
}

// RunWatching is Run that asks server, if it is not nil, while a client is
// silent that the TLS inspector waits for. serverFirst says that the server
// spoke and the client has said nothing: what is in info is what it is for
// plaintext. No method of server is called after RunWatching has returned, but
// a done of its may still be called.
func (f *Filters) RunWatching(ctx context.Context, c net.Conn, info *flow.Info, server Server) (serverFirst bool, err error) {
	if len(f.steps) == 0 {
		return false, nil
	}
	f.stats.active.Inc()
	defer f.stats.active.Dec()
	i := &inspection{Filters: f, ctx: ctx, conn: c, info: info}
	if err := i.peek.open(c); err != nil {
		return false, &Error{Filter: f.steps[0].name, Reason: Broken, Err: err}
	}
	defer i.peek.release()
	err = i.runSteps(server)
	if gone := i.disarm(); gone != nil {
		return false, gone
	}
	if errors.Is(err, errServerFirst) {
		return true, nil
	}
	return false, err
}

// runSteps runs each filter that is enabled for the connection as it is by then.
func (i *inspection) runSteps(server Server) error {
	for n := range i.steps {
		s := &i.steps[n]
		if matches(s.disabled, i.info) {
			continue
		}
		if i.othersOnlyInspect(n) {
			i.server = server
		}
		if err := s.run(i); err != nil {
			return i.judge(s, err)
		}
	}
	return nil
}

// judge counts a filter's failure and decides whether the connection goes on.
func (i *inspection) judge(s *step, err error) error {
	var known *Error
	switch {
	case i.ctx.Err() != nil:
		return context.Cause(i.ctx)
	case errors.Is(err, errServerFirst):
		return err
	case i.place.wasShed():
		i.stats.shed.Inc()
		return &Error{Filter: s.name, Reason: Shed, Err: ErrShed}
	case errors.Is(err, os.ErrDeadlineExceeded):
		i.stats.timeout.Inc()
		if i.goOn && !s.required {
			return nil
		}
		limit := i.timeout
		if limit == 0 {
			limit = i.partial
		}
		return &Error{Filter: s.name, Reason: Timeout, Err: fmt.Errorf("the client sent %d bytes, and not enough more within %s", i.peek.n, limit)}
	case errors.Is(err, errPeerClosed):
		i.stats.remoteClose.Inc()
		return &Error{Filter: s.name, Reason: RemoteClose, Err: fmt.Errorf("%w, after %d bytes", err, i.peek.n)}
	case errors.As(err, &known):
		known.Filter = s.name
		return known
	}
	i.stats.failure.Inc()
	return &Error{Filter: s.name, Reason: Broken, Err: err}
}

// matches evaluates filter_disabled; nil never matches.
func matches(p *config.ListenerFilterPredicate, info *flow.Info) bool {
	switch {
	case p == nil:
		return false
	case p.Any:
		return true
	case p.Not != nil:
		return !matches(p.Not, info)
	case p.IsPortRange:
		port := info.Local.Port()
		return info.Local.IsIP() && int(port) >= p.PortFrom && int(port) < p.To
	case p.Or != nil:
		for _, one := range p.Or {
			if matches(one, info) {
				return true
			}
		}
		return false
	}
	for _, one := range p.And {
		if !matches(one, info) {
			return false
		}
	}
	return len(p.And) > 0
}
