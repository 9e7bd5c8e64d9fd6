package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"outrider/certs"
	"outrider/proxy/admin"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/listener"
	"outrider/proxy/xds"
)

// LogLevel is one of Envoy's log levels.
func LogLevel(name string) (slog.Level, bool) { return admin.LogLevel(name) }

// openAdmin binds the admin interface, so that a taken address is an error of
// the start.
func (s *Server) openAdmin() error {
	if s.boot.Admin == nil {
		return nil
	}
	var err error
	if s.adminAccess, err = s.adminLogs(); err != nil || s.opts.NoSockets {
		return err
	}
	lns, err := listener.Listen(&config.Listener{Name: "admin", Address: s.boot.Admin.Address}, s.opts.Inherited)
	if err != nil {
		return err
	}
	s.adminListener = lns[0]
	if s.opts.AdminAddressPath == "" {
		return nil
	}
	return os.WriteFile(s.opts.AdminAddressPath, []byte(s.adminListener.Addr().String()), 0o644)
}

// How long the admin interface waits for a client: for its request, for it to
// take the answer (a CPU profile may take minutes to make), and between two.
const (
	adminReadTimeout  = 10 * time.Second
	adminWriteTimeout = 10 * time.Minute
	adminIdleTimeout  = time.Minute
)

// serveAdmin answers until ctx ends.
func (s *Server) serveAdmin(ctx context.Context) error {
	if s.adminListener == nil {
		return nil
	}
	server := &http.Server{
		Handler: logged(admin.New(s.adminOptions()), s.adminAccess), MaxHeaderBytes: 64 << 10,
		ReadTimeout: adminReadTimeout, WriteTimeout: adminWriteTimeout, IdleTimeout: adminIdleTimeout,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(s.adminListener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin interface: %w", err)
	}
	return nil
}

func (s *Server) adminOptions() admin.Options {
	return admin.Options{
		Stats: s.registry, Bootstrap: s.boot, Version: s.opts.Version, Start: s.start,
		CommandLine: s.opts.CommandLine, Types: decode.Types(), Node: s.discovery.node, LogLevel: s.opts.LogLevel,
		State: s.State, Refresh: s.refreshStats, Listeners: s.adminListeners, Clusters: s.adminClusters,
		ListenersVersion: s.discovery.listenersVersion, ClustersVersion: s.discovery.clustersVersion,
		Routes: s.adminRoutes, Extensions: s.adminExtensions,
		Secrets: s.secrets.Handles, Inline: s.inlineSecrets,
		Drain: s.drainListeners, Quit: s.Abort, Health: func(ok bool) { s.unhealthy.Store(!ok) },
		ReopenLogs: s.logs.Reopen,
		Handlers: append([]admin.Handler{{
			Path: "/explain", Help: "say what a connection would meet: ?listener= &destination= &source= &tls &sni= &alpn= &peer=",
			Handler: http.HandlerFunc(s.explainHandler),
		}}, s.dnsPages()...),
	}
}

// inlineSecrets are the handles of secrets that are given in place.
func (s *Server) inlineSecrets() []*certs.Handle { return s.secrets.Inline() }

// drainListeners is /drain_listeners: at once, or after the drain time. The
// server stays LIVE, as in Envoy: /healthcheck/fail is what tells a balancer.
func (s *Server) drainListeners(o admin.DrainOptions) {
	which := func(l *config.Listener) bool { return !o.InboundOnly || l.Direction == config.Inbound }
	if o.SkipExit { // connections drain, listeners stay
		s.listeners.drainConnections(which)
		return
	}
	if !o.Graceful {
		s.listeners.stop(which)
		return
	}
	s.listeners.drainConnections(which)
	s.listeners.wait.Go(func() {
		select {
		case <-time.After(s.opts.DrainTime):
			s.listeners.stop(which)
		case <-s.serving.Done():
		}
	})
}

func (s *Server) explainHandler(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	text := QueryText{
		Listener: v.Get("listener"), Destination: v.Get("destination"), Source: v.Get("source"),
		SNI: v.Get("sni"), Peer: v.Get("peer"), TLS: v.Has("tls"),
		Request: v.Get("request"), Headers: v["header"],
	}
	if alpn := v.Get("alpn"); alpn != "" {
		text.ALPN = strings.Split(alpn, ",")
	}
	if text.Peer != "" && !strings.HasPrefix(text.Peer, "spiffe://") {
		http.Error(w, "peer: only a SPIFFE ID here", http.StatusBadRequest)
		return
	}
	q, err := text.Parse()
	var x *Explanation
	if err == nil {
		x, err = s.Explain(q)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if v.Get("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(x) // the client has gone: there is nobody to tell
		return
	}
	fmt.Fprint(w, x.Text())
}

func (s *Server) adminListeners() []admin.Listener {
	var out []admin.Listener
	refused := s.listeners.refusals()
	for _, l := range s.listeners.sorted() {
		one := admin.Listener{Name: l.name, Dynamic: l.dynamic, Active: l.current().facts(), Warming: l.warmingSnapshot().facts()}
		for _, a := range l.bound() {
			one.Addresses = append(one.Addresses, addressText(a))
		}
		if len(one.Addresses) == 0 {
			for _, a := range addresses(l.current().cfg) {
				one.Addresses = append(one.Addresses, a.String())
			}
		}
		one.Refused = refused[l.name].facts()
		delete(refused, l.name)
		out = append(out, one)
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		out = append(out, admin.Listener{Name: name, Dynamic: true, Refused: refused[name].facts()})
	}
	for _, r := range s.discovery.refusals() {
		if s.boot.LDS != nil && s.boot.LDS.Path == r.Name {
			out = append(out, admin.Listener{Name: r.Name, Dynamic: true, Refused: r.facts()})
		}
	}
	return out
}

func addressText(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return netipUnmap(tcp.AddrPort()).String()
	}
	return a.String()
}

func (s *snapshot) facts() *admin.Version {
	if s == nil {
		return nil
	}
	return &admin.Version{Info: s.version, Source: s.cfg.Source, Updated: s.updated}
}

// facts is r for the admin interface; nil if there is no refusal.
func (r Refusal) facts() *admin.Refused {
	if r.Err == nil {
		return nil
	}
	out := &admin.Refused{Version: r.Version, When: r.When, Details: r.Err.Error()}
	if r.Config != nil {
		out.Source = r.Config.Source
	}
	return out
}

// refusedFacts is a resource of a stream that was refused.
func refusedFacts(r xds.Refusal) *admin.Refused {
	return &admin.Refused{Version: r.Version, When: r.When, Details: r.Err.Error(), Source: sourceOf(r.Body)}
}

func (s *Server) adminClusters() []admin.Cluster {
	var out []admin.Cluster
	refused := s.discovery.refusedClusters()
	for _, c := range s.clusters.All() {
		one := s.adminCluster(c)
		if r, ok := refused[one.Name]; ok {
			one.Refused = refusedFacts(r)
			delete(refused, one.Name)
		}
		out = append(out, one)
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		out = append(out, admin.Cluster{Name: name, Dynamic: true, Refused: refusedFacts(refused[name])})
	}
	for _, c := range s.clusters.Warming() {
		one := s.adminCluster(c)
		one.Warming = true
		out = append(out, one)
	}
	for _, r := range s.discovery.refusals() { // of CDS and EDS
		if s.boot.LDS == nil || s.boot.LDS.Path != r.Name {
			out = append(out, admin.Cluster{Name: r.Name, Dynamic: true, Refused: r.facts()})
		}
	}
	return out
}

func (s *Server) adminCluster(c *cluster.Cluster) admin.Cluster {
	d := c.Describe()
	out := admin.Cluster{
		Name: d.Name, ObservabilityName: d.ObservabilityName, EDSService: d.EDSServiceName, Dynamic: d.AddedViaAPI,
		Updated: d.Added, Source: d.Config.Source, Thresholds: d.Thresholds, Outlier: d.Outlier,
		SuccessRateAverage: d.SuccessRateAverage, SuccessRateThreshold: d.SuccessRateThreshold,
		LocalSuccessRateAverage: d.LocalSuccessRateAverage, LocalRateThreshold: d.LocalSuccessRateEjection,
	}
	if d.AddedViaAPI {
		out.Version = s.discovery.clusterVersion(d.Name)
	}
	if a := s.discovery.assignment(d); a != nil {
		out.Overprovisioning = a.Overprovisioning
	}
	for _, h := range d.Hosts {
		out.Hosts = append(out.Hosts, adminHost(h))
	}
	return out
}

// healthNames are envoy.config.core.v3.HealthStatus.
var healthNames = [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"}

func adminHost(h cluster.HostDescription) admin.Host {
	status := h.EDSStatus
	if status == config.HealthUnknown {
		status = config.Healthy
	}
	return admin.Host{
		Address: h.Address.String(), Hostname: h.Hostname, Locality: h.Locality, Weight: h.Weight, Priority: h.Priority,
		HealthFlags: h.HealthFlags, EDSHealth: healthNames[status],
		LocalityWeight: h.LocalityWeight, Canary: h.Canary, Metadata: h.Metadata,
		FailedHC: h.Failed.ActiveHealthCheck, FailedOutlier: h.Failed.OutlierCheck, FailedDegraded: h.Failed.ActiveDegraded,
		PendingRemoval: h.Failed.PendingDynamicRemoval, PendingActiveHC: h.Failed.PendingActiveHC,
		ExcludedByHC: h.Failed.ExcludedViaImmediateHCFail, HCTimeout: h.Failed.ActiveHCTimeout,
		CxActive: h.CxActive, CxConnectFail: h.CxConnectFail, CxTotal: h.CxTotal, RqActive: h.RqActive, RqTotal: h.RqTotal,
		RqSuccess: h.RqSuccess, RqError: h.RqError, RqTimeout: h.RqTimeout,
		SuccessRate: h.SuccessRate, LocalOriginSuccessRate: h.LocalOriginSuccessRate,
	}
}
