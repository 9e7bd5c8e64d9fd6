package telemetry

import (
	"crypto/x509"
	"strings"
	"sync"
	"unique"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/istio/peer"
	"outrider/tlsmux"
)

// subject is what the labels of a request or of a connection are made of, but
// for what is the same for all that a Reporter counts.
type subject struct {
	kind kind
	// peer is at the other end; for a waypoint the client, and endpoint the
	// server. Zero if it is not known.
	peer, endpoint unique.Handle[peer.Workload]
	// workload is what the control plane says of the endpoint, where it has not
	// spoken itself.
	workload string
	// host, name and namespace are of the service that was asked.
	host, name, namespace string
	// remote and local are the principals.
	remote, own string

	// Of a request.
	grpc   bool
	code   int
	status int64 // of gRPC; noStatus if there is none
	// Of a request, and of a connection.
	flags flow.ResponseFlags
	// values are those of the expressions, each with valueEnd after it.
	values string
}

const noStatus = -2

// local is the workload of this proxy, as Istio's filter reads the node.
type local struct {
	workload, namespace, service, revision, app, version, cluster string
}

func localOf(node *config.Node) local {
	fields := node.Metadata.GetFields()
	labels := fields["LABELS"].GetStructValue().GetFields()
	return local{
		workload: fields["WORKLOAD_NAME"].GetStringValue(), namespace: fields["NAMESPACE"].GetStringValue(),
		service:  labels["service.istio.io/canonical-name"].GetStringValue(),
		revision: labels["service.istio.io/canonical-revision"].GetStringValue(),
		app:      labels["app"].GetStringValue(), version: labels["version"].GetStringValue(),
		cluster: fields["CLUSTER_ID"].GetStringValue(),
	}
}

// subject is who and what info is about.
func (r *Reporter) subject(k kind, info *flow.Info) subject {
	s := subject{kind: k, status: noStatus}
	r.service(&s, info)
	if r.cfg.Reporter == config.IstioSource {
		s.peer = info.UpstreamPeer.Handle()
		if info.UpstreamPeer == nil {
			s.workload = info.UpstreamMetadata["istio"].GetFields()["workload"].GetStringValue()
		}
		s.remote, s.own = r.principals(info.Upstream)
		if s.remote == "" && info.UpstreamPeer != nil {
			s.remote = info.UpstreamPeer.Workload().Identity
		}
		return s
	}
	s.peer = info.DownstreamPeer.Handle()
	if r.cfg.Reporter == config.IstioWaypoint {
		s.endpoint = info.UpstreamPeer.Handle()
	}
	s.remote, _ = info.State("io.istio.peer_principal")
	s.own, _ = info.State("io.istio.local_principal")
	if s.remote == "" && s.own == "" {
		s.remote, s.own = r.principals(info.Downstream)
	}
	return s
}

// service is what was asked: of the cluster's metadata, or by the host header
// if that may be believed. Where there is no service the cluster or route that
// stands for everything else is its name.
func (r *Reporter) service(s *subject, info *flow.Info) {
	if !r.cfg.DisableHostHeaderFallback && info.HTTP != nil && info.HTTP.Request != nil {
		s.host = clip(info.HTTP.Request.Authority)
		s.name = s.host
	}
	switch info.Route {
	case "block_all":
		s.name = "BlackHoleCluster"
		return
	case "allow_any":
		s.name = "PassthroughCluster"
		return
	}
	name, metadata := info.UpstreamCluster, info.ClusterMetadata
	if metadata == nil { // no attempt was made, or there are none
		c := r.cluster(name)
		if c == nil {
			return
		}
		metadata = c.Metadata
	}
	switch name {
	case "BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster", "InboundPassthroughClusterIpv4", "InboundPassthroughClusterIpv6":
		s.name = name
		return
	}
	if first := metadata["istio"].GetFields()["services"].GetListValue().GetValues(); len(first) > 0 {
		s.setService(first[0].GetStructValue().GetFields())
	}
}

func (s *subject) setService(fields map[string]*structpb.Value) {
	if host, ok := fields["host"]; ok {
		s.host = host.GetStringValue()
	}
	s.namespace = fields["namespace"].GetStringValue()
	if name, ok := fields["name"]; ok {
		s.name = name.GetStringValue()
	} else {
		s.name, _, _ = strings.Cut(s.host, ".")
	}
}

func (r *Reporter) cluster(name string) *config.Cluster {
	if r.deps.Cluster == nil {
		return nil
	}
	return r.deps.Cluster(name)
}

// principals are the first URIs in the certificates of a TLS connection: the
// peer's, and ours. One that was not verified is none.
func (r *Reporter) principals(s *tlsmux.State) (remote, own string) {
	if s == nil {
		return "", ""
	}
	if s.PeerVerified && len(s.Peer) > 0 {
		remote = s.PeerID.String()
		if len(s.Peer[0].URIs) > 0 && (remote == "" || len(s.Peer[0].URIs) > 1) {
			remote = s.Peer[0].URIs[0].String()
		}
	}
	return remote, r.sans.of(s.Local)
}

// sanCache remembers the names of our own certificates, of which there are few,
// for to write a URI takes memory.
type sanCache struct {
	mu    sync.RWMutex
	known map[*x509.Certificate]string // guarded by mu
}

// maxSANs bounds the cache: each rotation of a secret makes another one.
const maxSANs = 32

func (c *sanCache) of(cert *x509.Certificate) string {
	if cert == nil || len(cert.URIs) == 0 {
		return ""
	}
	c.mu.RLock()
	san, ok := c.known[cert]
	c.mu.RUnlock()
	if ok {
		return san
	}
	san = cert.URIs[0].String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxSANs {
		c.known = map[*x509.Certificate]string{}
	}
	c.known[cert] = san
	return san
}

// maxValue bounds the value of a label that a client can choose, in bytes; Envoy
// has no limit.
const maxValue = 1024

// clip is s within maxValue.
func clip(s string) string { return s[:min(len(s), maxValue)] }
