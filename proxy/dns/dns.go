// Package dns is the resolver of a sidecar: it answers the names of istiod's
// table itself, and hands every other question to the resolvers that the
// workload would have asked. Redirection takes the workload's DNS to it.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"outrider/proxy/stats"
)

// DefaultListen is where Istio's rules redirect DNS to: both families.
const DefaultListen = "localhost:15053"

const (
	// defaultTimeout is how long a question may wait for the servers (Istio's
	// DefaultUpstreamTimeout, there of each server): as long as the C library
	// waits for us.
	defaultTimeout = 5 * time.Second
	// defaultInFlight bounds the questions that wait for servers, each of which
	// holds a goroutine and mostly a socket.
	defaultInFlight = 512
	// defaultConnections bounds the clients over TCP.
	defaultConnections = 256
)

// Options are what a Server is made from. The zero value serves on
// DefaultListen with /etc/resolv.conf.
type Options struct {
	// Listen are addresses, host:port, each for UDP and TCP; localhost is both
	// loopback addresses that the host has. None is DefaultListen.
	Listen []string
	// ResolvConf is the file that names the servers and the search domains; ""
	// is /etc/resolv.conf. It is read again when it changes.
	ResolvConf string
	// Namespace and Domain are the proxy's (Istio: the node's DNS domain, such
	// as "shop.svc.cluster.local"), for the short forms of names.
	Namespace, Domain string
	// ForwardBeforeTable asks the servers until the first table is there, in
	// place of failing (Istio: on port 53, where it stands in for the host's
	// resolver).
	ForwardBeforeTable bool
	// Timeout is for how long a question may wait for the servers; 0 is 5 s. A
	// server has two fifths of it.
	Timeout time.Duration
	// MaxInFlight bounds the questions that wait for servers, 0 is 512;
	// MaxConnections the clients over TCP, 0 is 256. Questions over UDP beyond
	// that are dropped, connections are closed, and both are counted.
	MaxInFlight, MaxConnections int
	Log                         *slog.Logger // nil: none
	// Stats is where the counters are made, mostly the scope "outrider.dns"; nil
	// makes them for nobody to see.
	Stats *stats.Scope
}

// Server is the resolver.
type Server struct {
	opts  Options
	log   *slog.Logger
	stats *counters
	place place

	udp  []*net.UDPConn
	tcp  []*net.TCPListener
	own  map[netip.AddrPort]bool // what we listen on
	conf *resolvConfFile

	mu    sync.Mutex // guards table, and with it what names are made of
	table *Table     // nil before the first
	names atomic.Pointer[names]

	slots       chan struct{}
	connections chan struct{}
	negatives   *negatives
	flights     *flights
	servers     *serverHealth
	outgoing    *outgoing
	tracking    *tracking
	origin      originFinder
}

// New opens the sockets, and reads resolv.conf. Nothing is answered before Run;
// without it, Close.
func New(o Options) (*Server, error) {
	s := newServer(o)
	if err := s.conf.open(); err != nil {
		return nil, fmt.Errorf("DNS: %w", err)
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, fmt.Errorf("DNS: %w", err)
	}
	return s, nil
}

// newServer is a server without sockets.
func newServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	s := &Server{
		opts: o, log: o.Log, stats: newCounters(o.Stats), place: newPlace(o.Namespace, o.Domain),
		own:         map[netip.AddrPort]bool{},
		slots:       make(chan struct{}, cmp.Or(o.MaxInFlight, defaultInFlight)),
		connections: make(chan struct{}, cmp.Or(o.MaxConnections, defaultConnections)),
		negatives:   newNegatives(), flights: newFlights(), servers: newServerHealth(), outgoing: newOutgoing(),
		tracking: newTracking(o.Log),
	}
	s.origin = systemOrigin{s.tracking}
	s.conf = &resolvConfFile{path: cmp.Or(o.ResolvConf, "/etc/resolv.conf"), port: 53, log: o.Log, changed: s.confChanged}
	return s
}

// SetTable has t answer from the next question on. It may be called before Run,
// and at any time.
func (s *Server) SetTable(t *Table) {
	if t == nil {
		t = &Table{}
	}
	for _, what := range t.ignored {
		s.log.Warn("part of the table of names is not used", "reason", what)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = t
	s.names.Store(newNames(t, s.place, s.conf.current.Load().search))
	s.stats.entries.Set(int64(len(t.entries)))
	s.log.Debug("a table of names is in use", "hosts", len(t.entries))
}

// confChanged follows another resolv.conf: its search domain is part of the
// names, and its servers may know other ones.
func (s *Server) confChanged(c *resolvConf) {
	s.negatives.forget()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table != nil {
		s.names.Store(newNames(s.table, s.place, c.search))
	}
}

// Table is the table in use, nil before the first.
func (s *Server) Table() *Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table
}

// Addresses are where it listens, each for UDP and TCP.
func (s *Server) Addresses() []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(s.udp))
	for _, c := range s.udp {
		out = append(out, localOf(c.LocalAddr()))
	}
	return out
}

// Run answers until ctx ends, and returns nil then, when every goroutine has
// ended. It closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	defer s.Close()
	for _, c := range s.udp {
		group.Go(func() error { return s.serveUDP(ctx, c) })
	}
	for _, l := range s.tcp {
		group.Go(func() error { return s.serveTCP(ctx, l) })
	}
	s.log.Info("DNS is answered", "addresses", s.Addresses())
	return group.Wait()
}

// Close closes the sockets; Run does so itself.
func (s *Server) Close() {
	for _, c := range s.udp {
		c.Close()
	}
	for _, l := range s.tcp {
		l.Close()
	}
	s.tracking.Close()
}

// localOf is a socket's address, an IPv4 one as such.
func localOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return unmap(ap)
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// closed is nil for the error of a socket that was closed because ctx ended.
func closed(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
