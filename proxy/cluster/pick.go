package cluster

import (
	"net/netip"
	"slices"

	"outrider/proxy/cluster/lb"
	"outrider/proxy/flow"
)

// Request is what is known of the connection that wants an upstream.
type Request struct {
	// Hash is for RING_HASH and MAGLEV, if HasHash; without one a random
	// number takes its place.
	Hash    uint64
	HasHash bool
	// OriginalDst is the restored destination, for ORIGINAL_DST clusters;
	// invalid if none was restored.
	OriginalDst netip.AddrPort
	// Info gets its upstream part filled in; nil for none.
	Info *flow.Info
	// Tried are hosts that another choice is preferred to.
	Tried []*Host
	// ALPN, if not nil, replaces the ALPN protocols of the transport socket.
	ALPN []string
	// FallbackALPN takes the place of none: where the transport socket has no
	// ALPN protocols, and ALPN is nil.
	FallbackALPN []string
	// ServerName, if not "", replaces the server name that TLS asks for
	// (auto_sni).
	ServerName string
	// Attempts is how many other choices may be made to avoid Tried; 0 is 3.
	Attempts uint32
	// NoCanary prefers hosts that are no canaries (omit_canary_hosts).
	NoCanary bool

	// requests says that the connection is for requests, which are counted by
	// themselves; high is their priority.
	requests, high bool
}

// choice is a host and how it was found.
type choice struct {
	host     *Host
	priority int
	degraded bool
	panicked bool
}

// retries is how many other choices are made to avoid hosts that were tried.
const retries = 3

// pick chooses a host; choice.host is nil if there is none. With peek it
// changes nothing.
func (c *Cluster) pick(req *Request, peek bool) choice {
	if c.original != nil {
		return choice{host: c.original.find(c, req.OriginalDst, peek)}
	}
	s := c.snap.Load()
	if len(s.levels) == 0 {
		return choice{}
	}
	in := lb.Input{Peek: peek}
	if req.HasHash && c.hashes() {
		in.Hash = req.Hash
	} else {
		in.Hash = c.opts.Rand()
	}
	var got choice
	again := uint32(retries)
	if req.Attempts > 0 {
		again = req.Attempts
	}
	for ; in.Attempt <= again; in.Attempt++ {
		got = c.pickOnce(s, in)
		if got.host == nil || !slices.Contains(req.Tried, got.host) && !(req.NoCanary && got.host.canary()) {
			break
		}
	}
	return got
}

func (c *Cluster) pickOnce(s *snapshot, in lb.Input) choice {
	var got choice
	got.priority, got.degraded = s.load.Choose(in.Hash)
	l := s.levels[got.priority]
	got.panicked = s.load.Panic[got.priority]
	if got.panicked && c.cfg.LBCommon.FailOnPanic {
		return got
	}
	switch {
	case l.hash != nil:
		got.host = l.hash.choose(in)
	case got.panicked:
		got.host = l.all.choose(in)
	case got.degraded && l.localDegraded != nil:
		got.host = l.localDegraded.choose(in)
	case got.degraded:
		got.host = l.degraded.choose(in)
	case l.localHealthy != nil:
		got.host = l.localHealthy.choose(in)
	default:
		got.host = l.healthy.choose(in)
	}
	return got
}
