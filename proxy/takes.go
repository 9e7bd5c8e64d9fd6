package proxy

import (
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/xds"
)

// What streams bring, one resource at a time: a change of one costs what that
// one costs.

// named is a message with the name that it says itself.
type named interface {
	proto.Message
	GetName() string
}

// open reads a resource into m, whose own name must be the resource's.
func open(r xds.Resource, m proto.Message, name func() string) error {
	if err := r.Body.UnmarshalTo(m); err != nil {
		return err
	}
	if name() != r.Name {
		return fmt.Errorf("its name is %q", name())
	}
	return nil
}

func openNamed[M named](r xds.Resource, m M) (M, error) { return m, open(r, m, m.GetName) }

// takeClusters is what CDS brings.
func (d *discovery) takeClusters(u xds.Update) map[string]error {
	refused := map[string]error{}
	var updated []*config.Cluster
	for _, r := range u.Updated {
		c, err := d.decodeCluster(r)
		if err != nil {
			refused[r.Name] = err
			continue
		}
		updated = append(updated, c)
	}
	removed := slices.DeleteFunc(slices.Clone(u.Removed), d.isStatic)
	// Before they can be seen: what comes by CDS has a version.
	d.mu.Lock()
	for _, r := range u.Updated {
		if refused[r.Name] == nil {
			d.clusterVersions[r.Name] = r.Version
		}
	}
	for _, name := range removed {
		delete(d.clusterVersions, name)
	}
	d.mu.Unlock()
	maps.Copy(refused, d.server.clusters.ChangeEach(updated, removed))
	for _, c := range updated {
		d.server.clusters.SetDynamic(c.Name)
	}
	if len(refused) == 0 {
		d.mu.Lock()
		d.cds = u.Version
		d.mu.Unlock()
	}
	return refused
}

func (d *discovery) decodeCluster(r xds.Resource) (*config.Cluster, error) {
	m, err := openNamed(r, &clusterv3.Cluster{})
	if err != nil {
		return nil, err
	}
	if d.isStatic(r.Name) {
		return nil, fmt.Errorf("cluster %q is static, and cannot be changed", r.Name)
	}
	return decode.Cluster(m, d.decoding())
}

// isStatic says that a cluster is in the bootstrap.
func (d *discovery) isStatic(name string) bool {
	return slices.ContainsFunc(d.server.boot.Clusters, func(c *config.Cluster) bool { return c.Name == name })
}

// takeListeners is what LDS brings.
func (d *discovery) takeListeners(u xds.Update) map[string]error {
	refused := map[string]error{}
	for _, name := range u.Removed {
		if l := d.server.listeners.get(name); l == nil || l.dynamic {
			d.server.listeners.remove(name)
		}
	}
	for _, r := range u.Updated {
		if err := d.takeListener(r); err != nil {
			refused[r.Name] = err
		}
	}
	if len(refused) == 0 {
		d.mu.Lock()
		d.lds = u.Version
		d.mu.Unlock()
	}
	return refused
}

func (d *discovery) takeListener(r xds.Resource) error {
	m, err := openNamed(r, &listenerv3.Listener{})
	if err == nil {
		var l *config.Listener
		if l, err = decode.Listener(m, d.decoding()); err == nil {
			return d.applyListener(l, r.Version)
		}
	}
	d.server.listeners.refuse(&config.Listener{Name: r.Name, Source: m}, r.Version, err)
	return err
}

// takeAssignments is what EDS brings from source.
func (d *discovery) takeAssignments(source *certs.Source, u xds.Update) map[string]error {
	key := func(name string) string { return serviceKey(&config.EDS{ServiceName: name, Source: source}) }
	refused := map[string]error{}
	for _, r := range u.Updated {
		a, err := d.decodeAssignment(r)
		if err != nil {
			refused[r.Name] = err
			d.server.clusters.RefuseAssignment(key(r.Name))
			continue
		}
		d.assign(key(r.Name), a)
	}
	for _, name := range u.Removed {
		d.server.clusters.NoAssignment(key(name))
	}
	return refused
}

// assign gives endpoints to the clusters that want them.
func (d *discovery) assign(key string, a *config.Assignment) {
	d.mu.Lock()
	d.assignments[key] = a
	d.mu.Unlock()
	d.server.clusters.SetAssignment(key, a)
}

// serviceKey tells services of one name apart by where their endpoints come
// from (cluster.Options.ServiceKey).
func serviceKey(e *config.EDS) string {
	switch s := e.Source; {
	case s == nil:
		return e.ServiceName
	case s.ADS:
		return e.ServiceName + "\x00ads"
	case s.Path != "":
		return e.ServiceName + "\x00file " + s.Path
	case s.Delta:
		return e.ServiceName + "\x00delta " + s.Cluster
	default:
		return e.ServiceName + "\x00whole " + s.Cluster
	}
}

func (d *discovery) decodeAssignment(r xds.Resource) (*config.Assignment, error) {
	m := &endpointv3.ClusterLoadAssignment{}
	if err := open(r, m, m.GetClusterName); err != nil {
		return nil, err
	}
	return decode.Assignment(m, d.decoding())
}

// wanted is a service whose endpoints come by a stream, under its key.
type wanted struct {
	stream *stream
	key    string
}

// askEndpoints asks for the endpoints of an EDS cluster until the returned
// function is called (cluster.Options.Endpoints).
func (d *discovery) askEndpoints(e *config.EDS) (stop func()) {
	if !overStream(e.Source) {
		d.followAssignment(e.Source)
		return func() {}
	}
	w := wanted{d.streams.of(e.Source, xds.EndpointType), serviceKey(e)}
	d.mu.Lock()
	d.services[w]++
	d.mu.Unlock()
	d.subscribe(w.stream, xds.EndpointType, e.ServiceName)
	return func() {
		w.stream.client.Unsubscribe(xds.EndpointType, e.ServiceName)
		d.mu.Lock()
		d.services[w]--
		last := d.services[w] == 0
		if last {
			delete(d.services, w)
			delete(d.assignments, w.key)
		}
		d.mu.Unlock()
		if last {
			d.server.clusters.DropAssignment(w.key)
		}
	}
}

// subscribe is for types that register has registered.
func (d *discovery) subscribe(one *stream, typeURL, name string) {
	if err := one.client.Subscribe(typeURL, name); err != nil {
		d.server.log.Error("xDS subscription", "reason", err)
	}
}

// assignmentsFailed counts that a stream of endpoints ended.
func (d *discovery) assignmentsFailed(one *stream) {
	d.mu.Lock()
	var services []string
	for w := range d.services {
		if w.stream == one {
			services = append(services, w.key)
		}
	}
	d.mu.Unlock()
	for _, s := range services {
		d.server.clusters.FailAssignment(s)
	}
}

// takeSecret is what SDS brings by the aggregated stream.
func (d *discovery) takeSecret(r xds.Resource) (*certs.Secret, error) {
	secret, err := d.decodeSecret(r.Body, r.Version, "sds ads")
	switch {
	case err != nil:
		return nil, err
	case secret.Name != r.Name:
		return nil, fmt.Errorf("its name is %q", secret.Name)
	case secret.KeyPair == nil && secret.Validation == nil && secret.TicketKeys == nil:
		return nil, fmt.Errorf("the secret %q is of no known kind", r.Name)
	}
	return secret, nil
}

// takeRoutes is what RDS brings.
func (d *discovery) takeRoutes(r xds.Resource) (*config.RouteConfig, error) {
	m, err := openNamed(r, &routev3.RouteConfiguration{})
	if err != nil {
		return nil, err
	}
	return decode.RouteConfiguration(m, d.decoding())
}

// refusedClusters are the clusters whose last version was refused, by name.
func (d *discovery) refusedClusters() map[string]xds.Refusal {
	out := map[string]xds.Refusal{}
	for _, one := range d.streams.all() {
		for _, r := range one.client.Refusals(xds.ClusterType) {
			out[r.Name] = r
		}
	}
	return out
}

// sourceOf is a refused resource's message; nil if it cannot be read.
func sourceOf(body *anypb.Any) proto.Message {
	if m, err := body.UnmarshalNew(); err == nil {
		return m
	}
	return nil
}
