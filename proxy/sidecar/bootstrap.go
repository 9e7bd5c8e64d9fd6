package sidecar

import (
	"fmt"
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// The sidecar's ports (Istio's, ANCHORS: "Ports used by Istio").
const (
	AdminPort    = 15000
	OutboundPort = 15001
	InboundPort  = 15006
	StatusPort   = 15020
	HealthPort   = 15021
	DNSPort      = 15053
)

// reserved are the ports that cannot be the application's.
var reserved = []uint16{AdminPort, OutboundPort, 15004, InboundPort, 15008, StatusPort, HealthPort, DNSPort, 15090}

// SecretSocket is where the agent serves SDS, from the sidecar's working
// directory (Istio: security.WorkloadIdentitySocketPath).
const SecretSocket = "./var/run/secrets/workload-spiffe-uds/socket"

// sdsCluster is the cluster of the agent's socket, as in Istio's bootstrap.
const sdsCluster = "sds-grpc"

// Resources are what changes with the file: the dynamic part.
type Resources struct {
	Listeners []*listenerv3.Listener
	Clusters  []*clusterv3.Cluster
}

// Resources are the listeners and clusters of c.
func (c *Config) Resources() (Resources, error) {
	b := builder{cfg: c}
	r := Resources{Listeners: b.listeners(), Clusters: b.clusters()}
	return r, b.err
}

// Bootstrap is what does not change while the sidecar runs: who it is, the
// admin interface and the agent's socket. With all it is the whole
// configuration, which Envoy runs as it is.
func (c *Config) Bootstrap(all bool) (*bootstrapv3.Bootstrap, error) {
	b := builder{cfg: c}
	boot := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{
			Id:       fmt.Sprintf("sidecar~127.0.0.1~%s.%s~%s.svc.cluster.local", c.Workload, c.Namespace, c.Namespace),
			Cluster:  c.Workload + "." + c.Namespace,
			Metadata: b.nodeMetadata(),
		},
		Admin:           &bootstrapv3.Admin{Address: address(netip.MustParseAddr("127.0.0.1"), AdminPort)},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{b.secrets()}},
	}
	if all {
		r, err := c.Resources()
		if err != nil {
			return nil, err
		}
		boot.StaticResources.Listeners = append(boot.StaticResources.Listeners, r.Listeners...)
		boot.StaticResources.Clusters = append(boot.StaticResources.Clusters, r.Clusters...)
	}
	return boot, b.err
}

// builder makes Envoy's messages. The first message that cannot be packed is
// its error.
type builder struct {
	cfg *Config
	err error
}

func (b *builder) pack(m proto.Message) *anypb.Any {
	packed, err := anypb.New(m)
	if err != nil && b.err == nil {
		b.err = err
	}
	return packed
}

// nodeMetadata is what metadata exchange tells the peers.
func (b *builder) nodeMetadata() *structpb.Struct {
	s, err := structpb.NewStruct(map[string]any{
		"NAME": b.cfg.Workload, "WORKLOAD_NAME": b.cfg.Workload, "NAMESPACE": b.cfg.Namespace,
		"SERVICE_ACCOUNT": b.cfg.ServiceAccount, "CLUSTER_ID": "outrider",
	})
	if err != nil && b.err == nil {
		b.err = err
	}
	return s
}

// anyAddress is what the virtual listeners bind: with IPv6, both families.
func (b *builder) anyAddress() netip.Addr {
	if b.cfg.ipv6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func address(ip netip.Addr, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip.String(), Ipv4Compat: ip == netip.IPv6Unspecified(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
