package decode

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	// What typed_config may hold. These packages are used here by their type
	// URLs only; those that are decoded into values are imported where that is
	// done.
	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/echo/v3"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
)

// types resolve type URLs: what is linked into the binary, and the types that
// no Go package has.
type types struct {
	own map[protoreflect.FullName]protoreflect.MessageType
}

func (t types) find(name protoreflect.FullName) (protoreflect.MessageType, bool) {
	if mt, ok := t.own[name]; ok {
		return mt, true
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
	return mt, err == nil
}

const metadataExchangeType protoreflect.FullName = "envoy.tcp.metadataexchange.config.MetadataExchange"

// newTypes describes MetadataExchange; source: istio/proxy,
// source/extensions/filters/network/metadata_exchange/config/metadata_exchange.proto.
func newTypes() types {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Label: &label}
	}
	const (
		text     = descriptorpb.FieldDescriptorProto_TYPE_STRING
		flag     = descriptorpb.FieldDescriptorProto_TYPE_BOOL
		single   = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		repeated = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("metadata_exchange.proto"),
		Package: proto.String(string(metadataExchangeType.Parent())),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String(string(metadataExchangeType.Name())),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("protocol", 1, text, single),
				field("enable_discovery", 2, flag, single),
				field("additional_labels", 3, text, repeated),
			},
		}},
	}, nil)
	if err != nil {
		return types{} // cannot be: the text above is fixed; then the type is unknown, which refuses it
	}
	mt := dynamicpb.NewMessageType(file.Messages().Get(0))
	return types{own: map[protoreflect.FullName]protoreflect.MessageType{metadataExchangeType: mt}}
}
