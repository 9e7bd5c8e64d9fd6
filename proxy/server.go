// Package proxy is the running proxy: it compiles configuration into immutable
// snapshots, takes each connection through its path (serve.go), applies
// updates without touching what did not change, explains its decisions, and
// ends in order.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"outrider/certs"
	"outrider/proxy/accesslog"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/dns"
	"outrider/proxy/filter"
	"outrider/proxy/flow"
	httpfilter "outrider/proxy/http/filter"
	"outrider/proxy/http/upstreamcall"
	"outrider/proxy/listener"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
	"outrider/proxy/xds"
)

// Options are what the command line decides. The zero value is good for
// tests, but for DrainTime, whose 0 cuts at once.
type Options struct {
	Log      *slog.Logger
	LogLevel *slog.LevelVar // nil: /logging cannot change it
	// DrainTime is how long connections may go on after their listener or
	// filter chain has gone, or after SIGTERM (Envoy: --drain-time-s, default
	// 600 s).
	DrainTime time.Duration
	// FlushInterval is how often access log files are written (Envoy:
	// --file-flush-interval-msec, default 10 s).
	FlushInterval time.Duration
	// FlushSize is how many bytes of an access log file wait at most (Envoy:
	// --file-flush-min-size-kb, default 64 KiB).
	FlushSize int
	// Concurrency is Envoy's --concurrency, shown in /server_info; how many
	// threads run Go code is GOMAXPROCS.
	Concurrency int
	Version     string
	// CommandLine are the options as /server_info shows them.
	CommandLine map[string]any
	// AdminAddressPath is a file to write the admin interface's address to.
	AdminAddressPath string
	// NoServerFirst never dials a server for a client that says nothing
	// (--server-first=false); ServerFirstWait is how long a client may be
	// silent before that, 0 for 50 ms.
	NoServerFirst   bool
	ServerFirstWait time.Duration
	// Hold is for how long after the start connections are held whose secrets
	// or clusters are not there yet; 0 does not hold. Then accepting does not
	// wait for the clusters either.
	Hold time.Duration
	// MinDrainTime is for how long OUTBOUND listeners go on at least when the
	// server ends, though no connection is open; with DrainFully, for the
	// whole DrainTime.
	MinDrainTime time.Duration
	DrainFully   bool
	// LoopGuard refuses connections to listeners that take redirected ones, if
	// they were not redirected.
	LoopGuard bool
	// Inherited are sockets to serve on that are open already.
	Inherited *listener.Inherited
	// Secrets feeds secrets of gRPC sources from within the process, in place
	// of an SDS stream; nil streams.
	Secrets certs.Feed
	// Peers says which open connections end when their peer would not be let
	// in any more.
	Peers PeerOptions
	// ParkAfter is after how much time without a byte a TCP connection gives up
	// its goroutines; 0 is a second.
	ParkAfter time.Duration
	// XDSCache is a directory in which the last good configuration of each
	// control plane is kept; "" keeps none.
	XDSCache string
	// ADS opens the aggregated stream in place of its cluster; nil goes by the
	// cluster.
	ADS xds.Transport
	// Types are further types of the aggregated stream, each subscribed to as a
	// whole (Istio's NameTable); their Rank follows Envoy's own.
	Types []xds.Type
	// DNS answers a workload's DNS with Istio's table of names, which is asked
	// for on the aggregated stream; nil does not. Its Log and Stats are the
	// server's.
	DNS *dns.Options
	// HTTPFilters are makers of HTTP filters beside outrider's own, or in the
	// place of one; their configuration is decoded by what was given to decode
	// as Options.HTTPFilters.
	HTTPFilters httpfilter.Makers
	// NoSockets binds nothing: for explain.
	NoSockets bool
}

// Server is one proxy.
type Server struct {
	opts  Options
	boot  *config.Bootstrap
	log   *slog.Logger
	start time.Time

	registry  *stats.Registry
	stats     *serverStats
	secrets   *certs.Store
	clusters  *cluster.Set
	listeners *listeners
	requests  *requests
	peers     *peers
	expired   *ownExpired
	logs      *accesslog.Files

	adminAccess   []filter.AccessLogger
	adminListener net.Listener // nil: no admin interface
	dns           *dns.Server  // nil: DNS is not answered
	discovery     *discovery

	globalLimit *listener.Limit
	waiting     *listener.Waiting
	serverFirst *serverFirst
	lastID      atomic.Uint64

	// accepting ends when no new connection is taken, serving when the open
	// ones must end.
	accepting, serving   context.Context //nolint:containedctx // the server's two lives, made in New
	stopAccept, stopServ context.CancelCauseFunc
	started              atomic.Bool
	draining             atomic.Bool
	unhealthy            atomic.Bool // /healthcheck/fail
	initialized          atomic.Bool

	warm         atomic.Bool   // every cluster has had its first endpoints
	skip         chan struct{} // one element: end the current stage of the end
	ownAddresses ownAddresses
	lot          *relay.Lot // nil where there is none
}

// errDrained and errAborted are why serving ends.
var (
	errDrained = errors.New("the server has drained")
	errAborted = errors.New("the server was told to end at once")
)

// New makes a server from boot and opens its sockets. It does not accept
// before Run. Every mistake that only shows here (an address in use) is
// reported, not just the first.
func New(boot *config.Bootstrap, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, boot: boot, log: opts.Log, start: time.Now(), registry: stats.New(), skip: make(chan struct{}, 1)}
	s.accepting, s.stopAccept = context.WithCancelCause(context.Background())
	s.serving, s.stopServ = context.WithCancelCause(context.Background())
	s.registry.Show(showing(&boot.Stats))
	s.stats = newServerStats(s.registry)
	s.globalLimit = listener.NewLimit(boot.GlobalConnectionLimit)
	s.waiting = listener.NewWaiting(listener.DefaultWaiting)
	s.serverFirst = newServerFirst(opts)
	var err error
	if s.lot, err = relay.NewLot(opts.ParkAfter, s.spawn); err != nil {
		return nil, err
	}
	s.logs = accesslog.NewFiles(accesslog.FilesOptions{FlushInterval: opts.FlushInterval, FlushSize: opts.FlushSize})
	s.discovery = newDiscovery(s)
	if opts.XDSCache != "" {
		if s.discovery.streams.cache, err = xds.OpenCache(xds.CacheOptions{Dir: opts.XDSCache, Node: boot.Node.ID}); err != nil {
			return nil, err
		}
	}
	if err := s.openDNS(); err != nil {
		return nil, err
	}
	s.secrets = certs.NewStore(s.discovery.feeds())
	s.secrets.SetStatic(boot.Secrets)
	s.requests = s.newRequests()
	s.clusters = cluster.NewSet(cluster.Options{Gone: s.requests.pools.Gone, Stats: s.registry, Log: s.log, Secrets: s.secrets, Format: accesslog.Formatter, Endpoints: s.discovery.askEndpoints, ServiceKey: serviceKey})
	s.requests.calls = upstreamcall.New(s.clusters)
	s.listeners = newListeners(s)
	s.peers = newPeers(opts.Peers, s.registry)
	s.expired = newOwnExpired(s.log, s.registry)
	if err := s.clusters.Apply(boot.Clusters); err != nil {
		s.closeDNS()
		return nil, err
	}
	var errs []error
	for _, l := range boot.Listeners {
		errs = append(errs, s.listeners.apply(l, "", false))
	}
	errs = append(errs, s.discovery.load(), s.openAdmin())
	if err := errors.Join(errs...); err != nil {
		s.listeners.closeSockets()
		s.closeDNS()
		return nil, err
	}
	return s, nil
}

// Run serves until ctx ends and the connections have drained, or Abort. It
// returns nil then; an error is of something without which it cannot run.
func (s *Server) Run(ctx context.Context) error {
	group, background := errgroup.WithContext(s.serving)
	group.Go(func() error { return s.secrets.Run(background) })
	group.Go(func() error { return s.registry.Run(background) })
	group.Go(func() error { return s.clusters.Run(background) })
	group.Go(func() error { return s.discovery.run(background) })
	group.Go(func() error { return s.serveAdmin(background) })
	group.Go(func() error { return s.logs.Run(background) })
	group.Go(func() error { return s.peers.run(background) })
	if s.dns != nil {
		group.Go(func() error { return s.dns.Run(background) })
	}
	if s.lot != nil {
		group.Go(func() error { return s.lot.Run(background) })
	}
	group.Go(func() error { s.begin(background); return nil })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			s.drainAndStop()
		case <-background.Done():
		}
		return nil
	})
	err := group.Wait()
	s.stopAccept(errAborted)
	s.stopServ(errAborted)
	s.listeners.wait.Wait()
	s.requests.close()
	s.logs.Close()
	return err
}

// begin accepts connections as soon as the clusters are warm and the listeners
// of a control plane have come, which are asked for only then. Until then the
// sockets are open, so that callers wait in the queue and are not refused. With
// Hold it accepts at once, and each connection waits for what it needs itself.
func (s *Server) begin(ctx context.Context) {
	if s.opts.Hold > 0 {
		s.accept()
	}
	s.discovery.askFurther()
	if s.discovery.firstClusters(ctx) != nil || s.clusters.WaitWarm(ctx) != nil {
		return
	}
	s.warm.Store(true)
	if s.discovery.firstListeners(ctx) != nil {
		return
	}
	s.accept()
	s.stats.workersStarted.Set(1)
	s.waitSecrets(ctx)
	s.initialized.Store(true)
	s.stats.initializationMS.Record(uint64(time.Since(s.start).Milliseconds()))
	if ctx.Err() == nil {
		s.log.Info("ready", "after", time.Since(s.start).Round(time.Millisecond))
	}
}

// accept begins to accept, if it has not begun.
func (s *Server) accept() {
	if s.started.Swap(true) {
		return
	}
	all := s.listeners.sorted()
	for _, l := range all {
		l.startAccepting(s.listeners)
	}
	s.log.Info("accepting connections", "listeners", len(all))
}

// waitSecrets waits until every secret that a listener or a cluster needs is
// there, or has not come within its initial_fetch_timeout.
func (s *Server) waitSecrets(ctx context.Context) {
	for _, h := range s.secrets.Handles() {
		select {
		case <-h.Initial():
		case <-ctx.Done():
			return
		}
	}
}

// Abort ends the server at once; connections are closed.
func (s *Server) Abort() {
	s.stopAccept(errAborted)
	s.stopServ(errAborted)
}

// State is Envoy's ServerInfo.State by name.
func (s *Server) State() string {
	switch {
	case s.draining.Load() || s.unhealthy.Load():
		return "DRAINING"
	case !s.warm.Load():
		return "PRE_INITIALIZING"
	case !s.initialized.Load():
		return "INITIALIZING"
	default:
		return "LIVE"
	}
}

// Listening are the addresses that a listener is bound to, for a test or a
// listener on port 0; nil if there is no such listener.
func (s *Server) Listening(name string) []net.Addr {
	l := s.listeners.get(name)
	if l == nil {
		return nil
	}
	return l.bound()
}

func (s *Server) newInfo(c net.Conn) *flow.Info {
	info := &flow.Info{ID: s.lastID.Add(1), Start: time.Now(), TransportProtocol: "raw_buffer"}
	info.DirectRemote = flowAddr(c.RemoteAddr())
	info.DirectLocal = flowAddr(c.LocalAddr())
	info.Remote, info.Local = info.DirectRemote, info.DirectLocal
	return info
}

// flowAddr is addr as an Addr, IPv4-mapped addresses as IPv4.
func flowAddr(addr net.Addr) flow.Addr {
	switch a := addr.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return flow.Addr{AddrPort: netipUnmap(ap)}
	case *net.UnixAddr:
		return flow.Addr{Path: a.Name}
	}
	return flow.Addr{Path: fmt.Sprint(addr)}
}

// filterDeps are what the network filters of a chain are made with. Connection
// managers get their routes from needs.routes.
func (s *Server) filterDeps(l *config.Listener, n *needs) filter.Deps {
	return filter.Deps{
		Stats: s.registry, Log: s.log, Clusters: s.clusters, Node: &s.boot.Node, Direction: l.Direction, Lot: s.lot,
		AccessLogs: s.accessLog, Format: accesslog.Formatter, HTTP: s.httpManager(l, n),
	}
}

func (s *Server) connectionLimit(name string) uint64 {
	return s.boot.ListenerConnectionLimits[name]
}
