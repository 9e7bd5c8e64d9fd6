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
	steps    []step
	timeout  time.Duration
	continu  bool
	stats    *FilterStats
	original originalDst
}

// step is one filter with its predicate.
type step struct {
	name     string
	disabled *config.ListenerFilterPredicate
	run      func(*inspection) error
}

// FilterStats count what the listener filters do, under Envoy's names.
type FilterStats struct {
	Timeout, RemoteClose, Error *stats.Counter // downstream_pre_cx_timeout, downstream_listener_filter_*

	TLSFound, TLSNotFound, HelloTooLarge           *stats.Counter // tls_inspector.*
	ALPNFound, ALPNNotFound, SNIFound, SNINotFound *stats.Counter

	HTTP10Found, HTTP11Found, HTTP2Found, HTTPNotFound *stats.Counter // http_inspector.*

	ProxyProtoError *stats.Counter // downstream_cx_proxy_proto_error
}

// NewFilterStats makes the counters under a listener's scope.
func NewFilterStats(listener *stats.Scope) *FilterStats {
	tls, http := listener.Scope("tls_inspector"), listener.Scope("http_inspector")
	return &FilterStats{
		Timeout:     listener.Counter("downstream_pre_cx_timeout"),
		RemoteClose: listener.Counter("downstream_listener_filter_remote_close"),
		Error:       listener.Counter("downstream_listener_filter_error"),
		TLSFound:    tls.Counter("tls_found"), TLSNotFound: tls.Counter("tls_not_found"),
		HelloTooLarge: tls.Counter("client_hello_too_large"),
		ALPNFound:     tls.Counter("alpn_found"), ALPNNotFound: tls.Counter("alpn_not_found"),
		SNIFound: tls.Counter("sni_found"), SNINotFound: tls.Counter("sni_not_found"),
		HTTP10Found: http.Counter("http10_found"), HTTP11Found: http.Counter("http11_found"),
		HTTP2Found: http.Counter("http2_found"), HTTPNotFound: http.Counter("http_not_found"),
		ProxyProtoError: listener.Counter("downstream_cx_proxy_proto_error"),
	}
}

// Compile makes the listener filters of cfg.
func Compile(cfg *config.Listener, st *FilterStats) (*Filters, error) {
	f := &Filters{timeout: cfg.FiltersTimeout, continu: cfg.ContinueOnTimeout, stats: st, original: systemOriginalDst}
	for _, lf := range cfg.Filters {
		s := step{name: lf.Name, disabled: lf.Disabled}
		switch {
		case lf.OriginalDst != nil:
			s.run = (*inspection).originalDst
		case lf.TLSInspector != nil:
			s.run = func(i *inspection) error { return i.tls(lf.TLSInspector) }
		case lf.HTTPInspector != nil:
			s.run = (*inspection).http
		case lf.ProxyProtocol != nil:
			s.run = func(i *inspection) error { return i.proxyProtocol(lf.ProxyProtocol) }
		default:
			return nil, fmt.Errorf("listener filter %q is of no known kind", lf.Name)
		}
		f.steps = append(f.steps, s)
	}
	return f, nil
}

// inspection is one connection on its way through the listener filters.
type inspection struct {
	*Filters
	conn net.Conn
	info *flow.Info
	peek *peeker
	tlsd bool // the ClientHello was found: http_inspector has nothing to do
}

// partialTimeout bounds a client that has begun a ClientHello or a header,
// where the listener has no timeout. Envoy has no such bound; without it a
// client that never finishes holds its connection for ever.
const partialTimeout = 15 * time.Second

// Run takes a connection through the filters, which put what they find into
// info. Nothing is consumed but PROXY headers. An error ends the connection.
func (f *Filters) Run(ctx context.Context, c net.Conn, info *flow.Info) error {
	if len(f.steps) == 0 {
		return nil
	}
	i := &inspection{Filters: f, conn: c, info: info}
	var err error
	if i.peek, err = newPeeker(c); err != nil {
		return err
	}
	defer i.peek.release()
	var deadline time.Time
	if f.timeout > 0 {
		deadline = time.Now().Add(f.timeout)
	}
	defer i.peek.until(ctx, deadline)()
	for _, s := range f.steps {
		if matches(s.disabled, info) {
			continue
		}
		if err := s.run(i); err != nil {
			return f.judge(ctx, s, err)
		}
	}
	return nil
}

// judge counts a filter's failure and decides whether the connection goes on.
func (f *Filters) judge(ctx context.Context, s step, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.stats.Timeout.Inc()
		if f.continu {
			return nil
		}
		return fmt.Errorf("%s: nothing to choose a filter chain by within %s", s.name, f.waited())
	case errors.Is(err, errPeerClosed):
		f.stats.RemoteClose.Inc()
	default:
		f.stats.Error.Inc()
	}
	return fmt.Errorf("%s: %w", s.name, err)
}

func (f *Filters) waited() time.Duration {
	if f.timeout > 0 {
		return f.timeout
	}
	return partialTimeout
}

// more waits for want bytes. Once a client has begun, and the listener has no
// timeout, it has partialTimeout to finish.
func (i *inspection) more(want int) error {
	if i.timeout > 0 || i.peek.n > 0 {
		return i.peek.more(want)
	}
	if err := i.peek.more(1); err != nil {
		return err
	}
	i.conn.SetReadDeadline(time.Now().Add(partialTimeout))
	return i.peek.more(want)
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
		return info.Local.IsIP() && port >= p.PortFrom && port < p.To
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

// originalDst asks where a connection was going before it was redirected; ok
// is false if it was not.
type originalDst func(c net.Conn, local netip.AddrPort) (dst netip.AddrPort, ok bool, err error)

// originalDst restores the destination. A connection that was not redirected
// keeps its own.
func (i *inspection) originalDst() error {
	if !i.info.Local.IsIP() {
		return nil
	}
	dst, ok, err := i.original(i.conn, i.info.Local.AddrPort)
	if err != nil {
		return fmt.Errorf("SO_ORIGINAL_DST: %w", err)
	}
	if ok {
		i.info.Local, i.info.LocalRestored = flow.Addr{AddrPort: dst}, dst != i.info.DirectLocal.AddrPort
	}
	return nil
}
