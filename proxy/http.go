package proxy

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"

	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/filter"
	"outrider/proxy/flow"
	httpfilter "outrider/proxy/http/filter"
	"outrider/proxy/http/filter/builtin"
	"outrider/proxy/http/hcm"
	"outrider/proxy/http/pool"
	"outrider/proxy/http/upstreamcall"
)

// requests is what the connection managers of a server share.
type requests struct {
	pools  *pool.Pools
	calls  *upstreamcall.Calls
	makers httpfilter.Makers
	local  netip.Addr
}

func (s *Server) newRequests() *requests {
	r := &requests{makers: builtin.Makers(), local: firstAddress()}
	for typ, make := range s.opts.HTTPFilters {
		r.makers[typ] = make
	}
	r.pools = pool.New(s.log)
	return r
}

// close ends all upstream connections.
func (r *requests) close() {
	r.calls.Close()
	r.pools.Close()
}

// requestLog is an access log as connection managers use it.
type requestLog struct{ log *accesslog.Log }

// Log writes an entry.
func (l requestLog) Log(info *flow.Info, event string) { l.log.Write(info, event) }

// noLog is for a server that only explains.
type noLog struct{}

// Log writes nothing.
func (noLog) Log(*flow.Info, string) {}

func (s *Server) requestLog(cfg *config.AccessLog) (httpfilter.AccessLogger, error) {
	if s.opts.NoSockets {
		return noLog{}, accesslog.Check(cfg)
	}
	log, err := accesslog.New(cfg, s.logs)
	if err != nil {
		return nil, err
	}
	return requestLog{log}, nil
}

// httpManager makes the connection managers of a listener's chain.
func (s *Server) httpManager(l *config.Listener, n *needs) func(string, *config.HTTPConnectionManager) (filter.Terminal, error) {
	return func(name string, cfg *config.HTTPConnectionManager) (filter.Terminal, error) {
		d := hcm.Deps{
			Stats: s.registry, Log: s.log, Node: &s.boot.Node, Listener: l, Clusters: s.clusters,
			Pools: s.requests.pools, Upstream: s.requests.calls, AccessLogs: s.requestLog,
			Format: accesslog.Formatter, BodyFormat: accesslog.Body, LogFilter: accesslog.Filter,
			LocalAddress: s.requests.local, Panicked: s.panicked, Makers: s.requests.makers, Failing: s.unhealthy.Load,
			Routes: n.routes, Extensions: n.extensions, RuntimePPM: s.runtimePPM, Rand: rand.Uint64,
		}
		if !s.opts.NoSockets {
			d.Background = s.serving
		}
		m, err := hcm.New(name, cfg, d)
		if err != nil {
			return nil, err // not a Terminal that is a nil pointer
		}
		return m, nil
	}
}

// runtimePPM is a runtime key as parts per million: its value is a percentage.
// It is ppm if the key is not set, or no number.
func (s *Server) runtimePPM(key string, ppm uint32) uint32 {
	for i := len(s.boot.Runtime) - 1; key != "" && i >= 0; i-- {
		text, ok := s.boot.Runtime[i].Values[key]
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil && n >= 0 && n <= 100 {
			return uint32(n * 10_000)
		}
	}
	return ppm
}

// firstAddress is the machine's own address, for X-Forwarded-For of clients on
// loopback, as Envoy chooses it: the first of IPv4 that is not loopback.
func firstAddress() netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() {
			if addr, ok := netip.AddrFromSlice(n.IP.To4()); ok {
				return addr
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
