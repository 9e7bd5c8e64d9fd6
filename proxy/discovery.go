package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/certs/sds"
	"outrider/proxy/accesslog"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
)

// discovery brings in what is not in the bootstrap: listeners, clusters,
// endpoints and routes from files and streams, and secrets from files and over
// SDS. An update that is refused leaves everything as it was, and is kept for
// the admin interface.
type discovery struct {
	server  *Server
	node    *corev3.Node
	sds     *sds.Client
	streams *streams

	mu          sync.Mutex
	refused     map[string]Refusal            // guarded by mu; by file
	assignments map[string]*config.Assignment // guarded by mu; by serviceKey
	following   map[string]bool               // guarded by mu; files of EDS
	fileRouted  map[*config.RDS]fileRoute     // guarded by mu; route configurations of files
	last        map[string]string             // guarded by mu; by file: the content that was applied or refused last
	clusters    []*config.Cluster             // guarded by mu; static and dynamic, but those of a stream
	lds, cds    string                        // guarded by mu; version_info of the last update, "" for none
	// Of streams: how many clusters want the endpoints of a service, and
	// version_info of each cluster. Guarded by mu.
	services        map[wanted]int
	clusterVersions map[string]string
	ctx             context.Context         //nolint:containedctx // guarded by mu; nil unless run runs
	later           []func(context.Context) // guarded by mu; what run begins with
	wait            sync.WaitGroup
}

func newDiscovery(s *Server) *discovery {
	d := &discovery{server: s, refused: map[string]Refusal{}, assignments: map[string]*config.Assignment{}, following: map[string]bool{}, last: map[string]string{}, clusters: s.boot.Clusters, services: map[wanted]int{}, clusterVersions: map[string]string{}}
	d.node = nodeOf(s.boot, s.opts.Version)
	d.sds = sds.NewClient(sds.Options{Dial: d.dial, Node: d.node, Decode: d.decodeSecret})
	d.streams = &streams{discovery: d, byKey: map[streamKey]*stream{}}
	return d
}

// wrappedFeature is a client feature that says that answers of the state of the
// world may have resources with a TTL (Envoy: xds.config.resource-in-sotw).
const wrappedFeature = "xds.config.resource-in-sotw"

// nodeOf is the node that goes out in requests: the bootstrap's, with our name.
func nodeOf(boot *config.Bootstrap, version string) *corev3.Node {
	given, ok := boot.Node.Source.(*corev3.Node)
	if !ok {
		return nil
	}
	out := proto.CloneOf(given)
	out.UserAgentName = cmp.Or(out.UserAgentName, "outrider")
	if out.UserAgentVersionType == nil && version != "" {
		out.UserAgentVersionType = &corev3.Node_UserAgentVersion{UserAgentVersion: version}
	}
	if !slices.Contains(out.ClientFeatures, wrappedFeature) {
		out.ClientFeatures = append(out.ClientFeatures, wrappedFeature)
	}
	return out
}

// decoding is what dynamic resources may refer to.
func (d *discovery) decoding() decode.Options {
	return decode.Options{Static: d.server.boot, CheckFormat: accesslog.Check}
}

// decodeSecret reads a secret that arrived over SDS.
func (d *discovery) decodeSecret(packed *anypb.Any, version, from string) (*certs.Secret, error) {
	s := &tlsv3.Secret{}
	if !packed.MessageIs(s) {
		return nil, fmt.Errorf("%s is no secret", packed.GetTypeUrl())
	}
	if err := packed.UnmarshalTo(s); err != nil {
		return nil, err
	}
	out, err := decode.Secret(s, from, "", d.decoding())
	if err != nil {
		return nil, err
	}
	// The digest of the content stays in it: a server that restarts counts its
	// versions anew.
	out.Version = version + " " + out.Version
	return out, nil
}

// dial connects to an endpoint of a cluster, for SDS.
func (d *discovery) dial(ctx context.Context, name string) (net.Conn, error) {
	c := d.server.clusters.Get(name)
	if c == nil {
		return nil, fmt.Errorf("there is no cluster %q", name)
	}
	return c.Connect(ctx, cluster.Request{})
}

func (d *discovery) feeds() certs.Feeds {
	grpc := d.server.opts.Secrets
	if grpc == nil {
		grpc = d.sds.Feed
	}
	return certs.Feeds{GRPC: grpc, File: d.feedSecret, ADS: d.feedADS}
}

// run follows the files of LDS, CDS and EDS, and keeps the streams, until ctx
// ends.
func (d *discovery) run(ctx context.Context) error {
	defer d.wait.Wait()
	d.mu.Lock()
	d.ctx = ctx
	later := d.later
	d.later = nil
	d.mu.Unlock()
	for _, f := range later {
		d.background(f)
	}
	d.followFile(d.server.boot.CDS, d.applyClusters)
	d.followFile(d.server.boot.LDS, d.applyListeners)
	d.streams.run(ctx)
	return nil
}

// background runs f, as soon as run runs, until the context that it is given
// ends.
func (d *discovery) background(f func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch ctx := d.ctx; {
	case ctx == nil:
		d.later = append(d.later, f)
	case ctx.Err() == nil:
		d.wait.Go(func() { f(ctx) })
	}
}

// followFile follows source, if it is a file.
func (d *discovery) followFile(source *certs.Source, apply func([]byte) error) {
	if source != nil && source.Path != "" {
		d.background(func(ctx context.Context) { d.follow(ctx, source, apply) })
	}
}

// followAssignment follows a file of EDS, each once.
func (d *discovery) followAssignment(source *certs.Source) {
	if source == nil || source.Path == "" {
		return
	}
	d.mu.Lock()
	begun := d.following[source.Path]
	d.following[source.Path] = true
	d.mu.Unlock()
	if !begun {
		d.followFile(source, func(text []byte) error { return d.applyAssignments(source, text) })
	}
}

// assignment is what a cluster's endpoints were made from.
func (d *discovery) assignment(c cluster.Description) *config.Assignment {
	if c.Config.EDS == nil {
		return c.Config.Assignment
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.assignments[serviceKey(c.Config.EDS)]
}

// load applies CDS and LDS once, before anything is accepted: a mistake then is
// one of the configuration, and the server does not begin.
func (d *discovery) load() error {
	return errors.Join(d.loadOnce(d.server.boot.CDS, d.applyClusters), d.loadOnce(d.server.boot.LDS, d.applyListeners))
}

func (d *discovery) loadOnce(source *certs.Source, apply func([]byte) error) error {
	if source == nil || source.Path == "" {
		return nil
	}
	if err := d.look(source.Path, apply); err != nil {
		return fmt.Errorf("%s: %w", source.Path, err)
	}
	return nil
}

func (d *discovery) refuse(path string, err error) {
	d.server.log.Error("update is refused, what was before goes on", "file", path, "reason", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused[path] = Refusal{Name: path, When: time.Now(), Err: err}
	d.server.stats.updateRejected.Inc()
	if u := d.updateStats(path); u != nil {
		u.refused(err)
	}
}

func (d *discovery) accept(path string) {
	d.server.log.Info("update is applied", "file", path)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.refused, path)
	switch u := d.updateStats(path); u {
	case nil:
	case &d.server.stats.lm.lds:
		u.took(d.lds)
	default:
		u.took(d.cds)
	}
}

// listenersVersion is version_info of the last LDS update; "" if there was none.
func (d *discovery) listenersVersion() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lds
}

// clustersVersion is version_info of the last CDS update; "" if there was none.
func (d *discovery) clustersVersion() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cds
}

// clusterVersion is version_info of the update that brought a cluster.
func (d *discovery) clusterVersion(name string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.clusterVersions[name]; ok {
		return v
	}
	return d.cds
}

// Refusals are the files whose current content is refused.
func (d *discovery) refusals() []Refusal {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Refusal, 0, len(d.refused))
	for _, path := range slices.Sorted(maps.Keys(d.refused)) {
		out = append(out, d.refused[path])
	}
	return out
}
