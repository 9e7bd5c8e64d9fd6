package telemetry

import (
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/istio/peer"
	"outrider/proxy/stats"
)

// What stands where nothing is known.
const (
	unknown = "unknown"
	latest  = "latest"
)

// labels are those of s, in Istio's order.
func (r *Reporter) labels(s *subject) []stats.Label {
	b := labelling{make([]stats.Label, 0, 25)}
	switch r.cfg.Reporter {
	case config.IstioSource:
		b.add("reporter", "source")
		r.sourceLabels(&b, s)
	case config.IstioDestination:
		b.add("reporter", "destination")
		r.clientLabels(&b, s)
		r.ownDestination(&b, s)
	case config.IstioWaypoint:
		b.add("reporter", "waypoint")
		r.clientLabels(&b, s)
		r.endpointLabels(&b, s)
	}
	if s.kind == messages { // Istio adds the rest later
		return b.all
	}
	r.outcome(&b, s)
	return b.all
}

type labelling struct{ all []stats.Label }

func (b *labelling) add(name, value string) {
	b.all = append(b.all, stats.Label{Name: name, Value: value})
}

// or adds value, or what stands for none.
func (b *labelling) or(name, value, none string) {
	if value == "" {
		value = none
	}
	b.add(name, value)
}

// peer is the workload at the other end; the zero one if it is not known.
func (s *subject) workloadOf() peer.Workload {
	var zero subject
	if s.peer != zero.peer {
		return s.peer.Value()
	}
	w, _ := peer.FromEndpoint(s.workload)
	return w
}

// peerNamespace is by the certificate, which proves it, or else as the peer
// says.
func (s *subject) peerNamespace(w *peer.Workload) string {
	if ns := namespaceOf(s.remote); ns != "" {
		return ns
	}
	return w.Namespace
}

// namespaceOf is NS of DOMAIN/ns/NS/sa/ACCOUNT; "" if there is none.
func namespaceOf(principal string) string {
	_, rest, _ := strings.Cut(principal, "/ns/")
	ns, _, _ := strings.Cut(rest, "/")
	return ns
}

// sourceLabels are those of a client's proxy.
func (r *Reporter) sourceLabels(b *labelling, s *subject) {
	w := s.workloadOf()
	ns := s.peerNamespace(&w)
	b.add("source_workload", r.local.workload)
	b.add("source_canonical_service", r.local.service)
	b.add("source_canonical_revision", r.local.revision)
	b.add("source_workload_namespace", r.local.namespace)
	b.or("source_principal", s.own, unknown)
	b.add("source_app", r.local.app)
	b.add("source_version", r.local.version)
	b.add("source_cluster", r.local.cluster)
	b.or("destination_workload", w.Name, unknown)
	b.or("destination_workload_namespace", ns, unknown)
	b.or("destination_principal", s.remote, unknown)
	b.or("destination_app", w.App, unknown)
	b.or("destination_version", w.Version, unknown)
	b.or("destination_service", s.host, unknown)
	b.or("destination_canonical_service", w.CanonicalName, unknown)
	b.or("destination_canonical_revision", w.CanonicalRevision, latest)
	b.or("destination_service_name", s.name, unknown)
	if s.namespace != "" {
		ns = s.namespace
	}
	b.or("destination_service_namespace", ns, unknown)
	b.or("destination_cluster", w.Cluster, unknown)
}

// clientLabels are what a server's proxy says of the client.
func (r *Reporter) clientLabels(b *labelling, s *subject) {
	w := s.workloadOf()
	b.or("source_workload", w.Name, unknown)
	b.or("source_canonical_service", w.CanonicalName, unknown)
	b.or("source_canonical_revision", w.CanonicalRevision, latest)
	b.or("source_workload_namespace", s.peerNamespace(&w), unknown)
	b.or("source_principal", s.remote, unknown)
	b.or("source_app", w.App, unknown)
	b.or("source_version", w.Version, unknown)
	b.or("source_cluster", w.Cluster, unknown)
}

// ownDestination are what a server's proxy says of itself.
func (r *Reporter) ownDestination(b *labelling, s *subject) {
	b.add("destination_workload", r.local.workload)
	b.add("destination_workload_namespace", r.local.namespace)
	b.or("destination_principal", s.own, unknown)
	b.add("destination_app", r.local.app)
	b.add("destination_version", r.local.version)
	b.or("destination_service", s.host, r.local.service)
	b.add("destination_canonical_service", r.local.service)
	b.add("destination_canonical_revision", r.local.revision)
	b.or("destination_service_name", s.name, r.local.service)
	b.add("destination_service_namespace", r.local.namespace)
	b.add("destination_cluster", r.local.cluster)
}

// endpointLabels are what a waypoint says of the server.
func (r *Reporter) endpointLabels(b *labelling, s *subject) {
	end := subject{peer: s.endpoint}
	w := end.workloadOf()
	b.or("destination_workload", w.Name, unknown)
	b.or("destination_workload_namespace", w.Namespace, unknown)
	b.or("destination_principal", w.Identity, unknown)
	b.or("destination_app", w.App, unknown)
	b.or("destination_version", w.Version, unknown)
	b.or("destination_service", s.host, unknown)
	b.or("destination_canonical_service", w.CanonicalName, unknown)
	b.or("destination_canonical_revision", w.CanonicalRevision, unknown)
	b.or("destination_service_name", s.name, unknown)
	b.or("destination_service_namespace", s.namespace, unknown)
	b.or("destination_cluster", w.Cluster, unknown)
}

// outcome are what became of a request or of a connection.
func (r *Reporter) outcome(b *labelling, s *subject) {
	switch {
	case s.kind != requests:
		b.add("request_protocol", "tcp")
	case s.grpc:
		b.add("request_protocol", "grpc")
	default:
		b.add("request_protocol", "http")
	}
	if s.kind == requests {
		b.add("response_code", strconv.Itoa(s.code))
		status := ""
		if s.status != noStatus {
			status = strconv.FormatInt(s.status, 10)
		}
		b.add("grpc_response_status", status)
	}
	b.or("response_flags", s.flags.String(), "-")
	policy := unknown
	if r.cfg.Reporter != config.IstioSource {
		policy = "none"
		if s.remote != "" && s.own != "" {
			policy = "mutual_tls"
		}
	}
	b.add("connection_security_policy", policy)
}
