package proxy

import (
	"errors"
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"outrider/proxy/config"
	"outrider/proxy/config/decode"
)

// Update is the whole of the dynamic listeners and clusters, from within the
// process: what a file of LDS and CDS would bring.
type Update struct {
	// Version is shown as version_info.
	Version   string
	Clusters  []*clusterv3.Cluster
	Listeners []*listenerv3.Listener
}

// Update makes u's listeners and clusters the dynamic ones. If any of them is
// refused nothing changes, and every mistake is reported with its place; an
// error that only shows later (an address in use) leaves that listener as it
// was. It must not be called where the bootstrap has sources of LDS or CDS, nor
// by two goroutines at once.
func (s *Server) Update(u Update) error {
	opts := s.discovery.decoding()
	clusters, clusterErr := decodeAll("clusters", u.Clusters, opts, decode.Cluster)
	listeners, listenerErr := decodeAll("listeners", u.Listeners, opts, decode.Listener)
	if err := errors.Join(clusterErr, listenerErr); err != nil {
		return err
	}
	// What the listeners of now send to stays until they are replaced.
	if err := s.discovery.setClusters(s.discovery.withCurrent(clusters), u.Version); err != nil {
		return err
	}
	return errors.Join(
		s.discovery.setListeners(listeners, map[string]bool{}, u.Version),
		s.discovery.setClusters(clusters, u.Version),
	)
}

// withCurrent is wanted and, after it, the dynamic clusters of now that are not
// in it.
func (d *discovery) withCurrent(wanted []*config.Cluster) []*config.Cluster {
	names := map[string]bool{}
	for _, c := range slices.Concat(wanted, d.server.boot.Clusters) {
		names[c.Name] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(wanted)
	for _, c := range d.clusters {
		if !names[c.Name] {
			out = append(out, c)
		}
	}
	return out
}

func decodeAll[P any, V *config.Cluster | *config.Listener](field string, in []P, opts decode.Options, one func(P, decode.Options) (V, error)) ([]V, error) {
	out := make([]V, 0, len(in))
	var errs []error
	for i, p := range in {
		v, err := one(p, opts)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", field, i, err))
			continue
		}
		out = append(out, v)
	}
	return out, errors.Join(errs...)
}
