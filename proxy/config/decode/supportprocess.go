package decode

import (
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// processSupport are the bootstrap's messages about the process as a whole.
var processSupport = map[protoreflect.FullName]fields{
	"envoy.config.bootstrap.v3.ClusterManager": {
		works: "outlier_detection",
		ignored: map[string]string{
			"enable_deferred_cluster_creation": "a cluster that nobody asks for costs little",
		},
		refused: map[string]string{
			"local_cluster_name":   "routing by zone is not implemented",
			"upstream_bind_config": "say upstream_bind_config in each cluster",
			"load_stats_config":    "load is not reported",
		},
	},
	"envoy.config.bootstrap.v3.ClusterManager.OutlierDetection": {
		ignored: map[string]string{"event_log_path": "hosts that are ejected are counted (cluster.*.outlier_detection); no file is written of them"},
		refused: map[string]string{"event_service": "no events are sent"},
	},
	"envoy.extensions.bootstrap.internal_listener.v3.InternalListener": {
		ignored: map[string]string{"buffer_size_kb": "internal listeners and envoy_internal_address are refused where they stand: there is nothing to buffer for"},
	},
}

// extensions checks bootstrap_extensions. The one that is known allows internal
// listeners, of which there are none.
func (d *decoder) extensions(b *bootstrapv3.Bootstrap, place at) {
	for i, e := range b.GetBootstrapExtensions() {
		in := place.item("bootstrap_extensions", i).in("typed_config")
		switch d.open(anyOf(e, in), in).(type) {
		case *internalv3.InternalListener, nil:
		default:
			in.bad("extension %q is not supported by outrider as an extension of the process", shorten(e.GetName()))
		}
	}
}
