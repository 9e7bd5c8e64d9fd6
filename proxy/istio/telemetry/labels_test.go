package telemetry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func TestARequestHasIstiosLabels(t *testing.T) {
	const own = "source_workload=us source_canonical_service=us-svc source_canonical_revision=v9r source_workload_namespace=our "
	const ownEnd = "source_app=us-app source_version=v9 source_cluster=k1 "
	const here = "destination_workload=us destination_workload_namespace=our "
	for name, c := range map[string]struct {
		cfg    config.IstioStats
		grpc   bool
		change func(i *flow.Info)
		want   string
	}{
		"a server over mTLS": {
			cfg: config.IstioStats{Reporter: config.IstioDestination, DisableHostHeaderFallback: true},
			change: func(i *flow.Info) {
				i.Downstream = tlsOf(t, clientID, serverID, true)
				i.DownstreamPeer = client()
			},
			want: "reporter=destination source_workload=client source_canonical_service=client-svc source_canonical_revision=v1 source_workload_namespace=users " +
				"source_principal=" + clientID + " source_app=client-app source_version=v1a source_cluster=k2 " +
				here + "destination_principal=" + serverID + " destination_app=us-app destination_version=v9 destination_service=us-svc " +
				"destination_canonical_service=us-svc destination_canonical_revision=v9r destination_service_name=us-svc destination_service_namespace=our destination_cluster=k1 " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=mutual_tls",
		},
		"a server whose client nobody knows": {
			cfg: config.IstioStats{Reporter: config.IstioDestination},
			change: func(i *flow.Info) {
				i.HTTP.Status = 0
				i.Flags = flow.DownstreamConnectionTermination | flow.NoRouteFound
			},
			want: "reporter=destination source_workload=unknown source_canonical_service=unknown source_canonical_revision=latest source_workload_namespace=unknown " +
				"source_principal=unknown source_app=unknown source_version=unknown source_cluster=unknown " +
				here + "destination_principal=unknown destination_app=us-app destination_version=v9 destination_service=asked.example " +
				"destination_canonical_service=us-svc destination_canonical_revision=v9r destination_service_name=asked.example destination_service_namespace=our destination_cluster=k1 " +
				"request_protocol=http response_code=0 grpc_response_status= response_flags=NR,DC connection_security_policy=none",
		},
		"a certificate that was not verified proves nothing": {
			cfg:    config.IstioStats{Reporter: config.IstioDestination, DisableHostHeaderFallback: true},
			change: func(i *flow.Info) { i.Downstream = tlsOf(t, clientID, serverID, false) },
			want: "reporter=destination source_workload=unknown source_canonical_service=unknown source_canonical_revision=latest source_workload_namespace=unknown " +
				"source_principal=unknown source_app=unknown source_version=unknown source_cluster=unknown " +
				here + "destination_principal=" + serverID + " destination_app=us-app destination_version=v9 destination_service=us-svc " +
				"destination_canonical_service=us-svc destination_canonical_revision=v9r destination_service_name=us-svc destination_service_namespace=our destination_cluster=k1 " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=none",
		},
		"a client of a service, gRPC": {
			grpc: true,
			change: func(i *flow.Info) {
				i.UpstreamCluster = "outbound|80||web.shop"
				i.Upstream = tlsOf(t, "spiffe://td/ns/shop/sa/web", serverID, true)
				i.UpstreamPeer = client()
				i.HTTP.ResponseTrailers.Add("grpc-status", "14")
			},
			want: "reporter=source " + own + "source_principal=" + serverID + " " + ownEnd +
				"destination_workload=client destination_workload_namespace=shop destination_principal=spiffe://td/ns/shop/sa/web destination_app=client-app destination_version=v1a " +
				"destination_service=web.shop.svc.cluster.local destination_canonical_service=client-svc destination_canonical_revision=v1 " +
				"destination_service_name=web destination_service_namespace=shop destination_cluster=k2 " +
				"request_protocol=grpc response_code=200 grpc_response_status=14 response_flags=- connection_security_policy=unknown",
		},
		"a client of an endpoint that says nothing": {
			change: func(i *flow.Info) {
				i.UpstreamCluster = "without a name"
				i.UpstreamMetadata = map[string]*structpb.Struct{"istio": structOf(t, map[string]any{"workload": "w;ns;svc;rev;k3"})}
			},
			want: "reporter=source " + own + "source_principal=unknown " + ownEnd +
				"destination_workload=w destination_workload_namespace=ns destination_principal=unknown destination_app=unknown destination_version=unknown " +
				"destination_service=web.shop.svc.cluster.local destination_canonical_service=svc destination_canonical_revision=rev " +
				"destination_service_name=web destination_service_namespace=ns destination_cluster=k3 " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=unknown",
		},
		"a client of the world": {
			change: func(i *flow.Info) { i.UpstreamCluster = "PassthroughCluster" },
			want: "reporter=source " + own + "source_principal=unknown " + ownEnd +
				"destination_workload=unknown destination_workload_namespace=unknown destination_principal=unknown destination_app=unknown destination_version=unknown " +
				"destination_service=asked.example destination_canonical_service=unknown destination_canonical_revision=latest " +
				"destination_service_name=PassthroughCluster destination_service_namespace=unknown destination_cluster=unknown " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=unknown",
		},
		"a client without a mesh, by what the peer says": {
			cfg: config.IstioStats{DisableHostHeaderFallback: true},
			change: func(i *flow.Info) {
				i.UpstreamCluster, i.UpstreamPeer = "plain", client()
				i.Route = "block_all"
			},
			want: "reporter=source " + own + "source_principal=unknown " + ownEnd +
				"destination_workload=client destination_workload_namespace=claimed destination_principal=spiffe://claimed destination_app=client-app destination_version=v1a " +
				"destination_service=unknown destination_canonical_service=client-svc destination_canonical_revision=v1 " +
				"destination_service_name=BlackHoleCluster destination_service_namespace=claimed destination_cluster=k2 " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=unknown",
		},
		"a waypoint": {
			cfg: config.IstioStats{Reporter: config.IstioWaypoint},
			change: func(i *flow.Info) {
				i.UpstreamCluster, i.UpstreamPeer = "outbound|80||web.shop", client()
				i.SetState("io.istio.peer_principal", clientID)
				i.SetState("io.istio.local_principal", serverID)
			},
			want: "reporter=waypoint source_workload=unknown source_canonical_service=unknown source_canonical_revision=latest source_workload_namespace=users " +
				"source_principal=" + clientID + " source_app=unknown source_version=unknown source_cluster=unknown " +
				"destination_workload=client destination_workload_namespace=claimed destination_principal=spiffe://claimed destination_app=client-app destination_version=v1a " +
				"destination_service=web.shop.svc.cluster.local destination_canonical_service=client-svc destination_canonical_revision=v1 " +
				"destination_service_name=web destination_service_namespace=shop destination_cluster=k2 " +
				"request_protocol=http response_code=200 grpc_response_status= response_flags=- connection_security_policy=mutual_tls",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, reg := reporter(t, c.cfg)
			r.Request(request(t, c.change), c.grpc)
			r.Request(request(t, c.change), c.grpc)
			want := map[string][]string{
				"istio_build":                         {"component=proxy tag=1.30.1 1"},
				"istio_requests_total":                {c.want + " 2"},
				"istio_request_duration_milliseconds": {c.want + " 24"},
				"istio_request_bytes":                 {c.want + " 300"},
				"istio_response_bytes":                {c.want + " 6000"},
			}
			if diff := cmp.Diff(want, exposed(t, reg)); diff != "" {
				t.Errorf("metrics (-want +got):\n%s", diff)
			}
		})
	}
}
