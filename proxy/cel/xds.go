package cel

import (
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
)

// xdsAttributes are xds.*.
func xdsAttributes() map[string]getter {
	return map[string]getter{
		"node": func(s *Subject) (any, bool) { return nodeObject{s}, true },
		"cluster_name": func(s *Subject) (any, bool) {
			_, ok := s.clusterMetadata()
			return s.Info.UpstreamCluster, ok
		},
		"cluster_metadata": func(s *Subject) (any, bool) {
			m, ok := s.clusterMetadata()
			return filterMetadata(m), ok
		},
		"route_name": func(s *Subject) (any, bool) { return s.Info.Route, s.Info.HTTP != nil },
		"route_metadata": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil {
				return nil, false
			}
			return filterMetadata(s.Info.HTTP.RouteMetadata), true
		},
		"virtual_host_name": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil {
				return nil, false
			}
			return present(s.Info.HTTP.VirtualHost)
		},
		"upstream_host_metadata": func(s *Subject) (any, bool) {
			return filterMetadata(s.Info.UpstreamMetadata), s.Info.UpstreamMetadata != nil
		},
		"filter_chain_name":  func(s *Subject) (any, bool) { return s.Info.FilterChain, true },
		"listener_direction": func(s *Subject) (any, bool) { return int64(s.Direction), true },
	}
}

// clusterMetadata are those of the cluster that was chosen; false if none was.
func (s *Subject) clusterMetadata() (map[string]*structpb.Struct, bool) {
	switch {
	case s.Info.UpstreamCluster == "":
		return nil, false
	case s.Info.ClusterMetadata != nil || s.Cluster == nil:
		return s.Info.ClusterMetadata, true
	}
	c := s.Cluster(s.Info.UpstreamCluster)
	if c == nil {
		return nil, false
	}
	return c.Metadata, true
}

// nodeAttributes are node.*, which Istio's proxies had before xds.node.
func nodeAttributes() map[string]getter {
	all := map[string]getter{}
	for _, name := range []string{"id", "cluster", "metadata", "locality"} {
		all[name] = func(s *Subject) (any, bool) { return nodeObject{s}.get(name) }
	}
	return all
}

// nodeObject is envoy.config.core.v3.Node.
type nodeObject struct{ *Subject }

func (n nodeObject) get(name string) (any, bool) {
	node := n.Node
	if node == nil {
		node = &config.Node{}
	}
	switch name {
	case "id":
		return node.ID, true
	case "cluster":
		return node.Cluster, true
	case "metadata":
		return structure{node.Metadata}, true
	case "locality":
		return texts{"region": node.Locality.Region, "zone": node.Locality.Zone, "sub_zone": node.Locality.SubZone}, true
	}
	return nil, false
}

// metadata are Structs by namespace.
type metadata map[string]*structpb.Struct

func (m metadata) get(name string) (any, bool) {
	v, ok := m[name]
	return structure{v}, ok
}

func (m metadata) size() int { return len(m) }

// filterMetadata is envoy.config.core.v3.Metadata.
type filterMetadata map[string]*structpb.Struct

func (m filterMetadata) get(name string) (any, bool) {
	return metadata(m), name == "filter_metadata"
}

// structure is google.protobuf.Struct.
type structure struct{ *structpb.Struct }

func (s structure) get(name string) (any, bool) {
	v, ok := s.GetFields()[name]
	return valueOf(v), ok
}

func (s structure) size() int { return len(s.GetFields()) }

func valueOf(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_NumberValue:
		return k.NumberValue
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_StructValue:
		return structure{k.StructValue}
	case *structpb.Value_ListValue:
		out := make([]any, 0, len(k.ListValue.GetValues()))
		for _, one := range k.ListValue.GetValues() {
			out = append(out, valueOf(one))
		}
		return out
	}
	return nil
}
