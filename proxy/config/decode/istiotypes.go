package decode

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Types of Istio's that no Go package has.
const (
	metadataExchangeType protoreflect.FullName = "envoy.tcp.metadataexchange.config.MetadataExchange"
	peerMetadataType     protoreflect.FullName = "io.istio.http.peer_metadata.Config"
)

// knownTypes are what describeTypes says, once: that takes longer than to
// decode a cluster.
//
//nolint:gochecknoglobals // a table that no literal can be
var knownTypes = sync.OnceValue(describeTypes)

// describeTypes describes them; sources: istio/proxy,
// source/extensions/filters/network/metadata_exchange/config/metadata_exchange.proto
// and Envoy's api/contrib, extensions/filters/http/peer_metadata.
func describeTypes() types {
	out := types{own: map[protoreflect.FullName]protoreflect.MessageType{}}
	for _, described := range []*descriptorpb.FileDescriptorProto{metadataExchangeFile(), peerMetadataFile()} {
		file, err := protodesc.NewFile(described, nil)
		if err != nil {
			continue // cannot be: the text is fixed; then the type is unknown, which refuses it
		}
		md := file.Messages().Get(0)
		out.own[md.FullName()] = dynamicpb.NewMessageType(md)
		for i := range md.Messages().Len() {
			inner := md.Messages().Get(i)
			out.own[inner.FullName()] = dynamicpb.NewMessageType(inner)
		}
	}
	return out
}

const (
	textField = descriptorpb.FieldDescriptorProto_TYPE_STRING
	flagField = descriptorpb.FieldDescriptorProto_TYPE_BOOL
)

func single(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{
		Name: &name, Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
}

func repeated(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
	fd := single(name, number, kind)
	fd.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	return fd
}

// inPeerMetadata is fd, a field whose type is in, inside peerMetadataType.
func inPeerMetadata(fd *descriptorpb.FieldDescriptorProto, in string) *descriptorpb.FieldDescriptorProto {
	fd.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
	fd.TypeName = proto.String("." + string(peerMetadataType) + "." + in)
	return fd
}

func metadataExchangeFile() *descriptorpb.FileDescriptorProto {
	return &descriptorpb.FileDescriptorProto{
		Name:    proto.String("metadata_exchange.proto"),
		Package: proto.String(string(metadataExchangeType.Parent())),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String(string(metadataExchangeType.Name())),
			Field: []*descriptorpb.FieldDescriptorProto{
				single("protocol", 1, textField),
				single("enable_discovery", 2, flagField),
				repeated("additional_labels", 3, textField),
			},
		}},
	}
}

func peerMetadataFile() *descriptorpb.FileDescriptorProto {
	oneof := []*descriptorpb.OneofDescriptorProto{{Name: proto.String("method_specifier")}}
	method := func(name string, number int32, in string) *descriptorpb.FieldDescriptorProto {
		fd := inPeerMetadata(single(name, number, textField), in)
		fd.OneofIndex = proto.Int32(0)
		return fd
	}
	return &descriptorpb.FileDescriptorProto{
		Name:    proto.String("peer_metadata.proto"),
		Package: proto.String(string(peerMetadataType.Parent())),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String(string(peerMetadataType.Name())),
			Field: []*descriptorpb.FieldDescriptorProto{
				inPeerMetadata(repeated("downstream_discovery", 1, textField), "DiscoveryMethod"),
				inPeerMetadata(repeated("upstream_discovery", 2, textField), "DiscoveryMethod"),
				inPeerMetadata(repeated("downstream_propagation", 3, textField), "PropagationMethod"),
				inPeerMetadata(repeated("upstream_propagation", 4, textField), "PropagationMethod"),
				single("shared_with_upstream", 5, flagField),
				repeated("additional_labels", 6, textField),
			},
			NestedType: []*descriptorpb.DescriptorProto{
				{Name: proto.String("Baggage")},
				{Name: proto.String("WorkloadDiscovery")},
				{Name: proto.String("UpstreamFilterState"), Field: []*descriptorpb.FieldDescriptorProto{single("peer_metadata_key", 1, textField)}},
				{Name: proto.String("IstioHeaders"), Field: []*descriptorpb.FieldDescriptorProto{single("skip_external_clusters", 1, flagField)}},
				{Name: proto.String("DiscoveryMethod"), OneofDecl: oneof, Field: []*descriptorpb.FieldDescriptorProto{
					method("baggage", 1, "Baggage"), method("workload_discovery", 2, "WorkloadDiscovery"), method("istio_headers", 3, "IstioHeaders"),
					method("upstream_filter_state", 4, "UpstreamFilterState"),
				}},
				{Name: proto.String("PropagationMethod"), OneofDecl: oneof, Field: []*descriptorpb.FieldDescriptorProto{
					method("istio_headers", 1, "IstioHeaders"), method("baggage", 2, "Baggage"),
				}},
			},
		}},
	}
}
