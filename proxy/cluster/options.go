package cluster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// Options are what a Set is made with. Stats and Secrets must be set; the
// others have defaults.
type Options struct {
	Stats   *stats.Registry
	Secrets *certs.Store
	Log     *slog.Logger // default: none
	// Resolver looks names up; the default is net.DefaultResolver.
	Resolver Resolver
	// Bind is cluster_manager.upstream_bind_config: for clusters with none of
	// their own.
	Bind config.BindConfig
	// Format compiles a text in the language of access logs; the default knows
	// none.
	Format func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// ServiceKey is what the Set's methods know the endpoints of a cluster by;
	// the default is the service's name. Two sources may have one name.
	ServiceKey func(*config.EDS) string
	// Endpoints is told that an EDS cluster wants its endpoints, which
	// SetAssignment brings; what it returns is called when the cluster does not
	// want them any more. The default asks nobody.
	Endpoints func(*config.EDS) (stop func())
	// Gone is told of each host that is no endpoint any more; it must not block
	// nor call back. The default tells nobody.
	Gone func(*Host)
	// Rand is for every random choice; the default is math/rand/v2's Uint64.
	Rand func() uint64
	// Now is the time for ejections and event logs; the default is time.Now.
	Now func() time.Time
	// DeferStatsAbove is the number of clusters from which on a cluster's
	// traffic counters are made when it is first used (Envoy:
	// enable_deferred_creation_stats); the default is 1000.
	DeferStatsAbove int
}

// Resolver is the part of net.Resolver that is used. network is "ip", "ip4" or
// "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Format == nil {
		o.Format = func(string, bool) (func(*flow.Info) string, error) {
			return nil, errors.New("there are no formats here")
		}
	}
	if o.Gone == nil {
		o.Gone = func(*Host) {}
	}
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.DeferStatsAbove == 0 {
		o.DeferStatsAbove = 1000
	}
	return o
}
