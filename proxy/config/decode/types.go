package decode

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

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

// MessageTypes finds messages by their type URLs.
type MessageTypes interface {
	// FindMessageByURL fails with protoregistry.NotFound.
	FindMessageByURL(url string) (protoreflect.MessageType, error)
}

// Types are all messages that configuration can hold, Istio's with them.
func Types() MessageTypes { return knownTypes() }

// FindMessageByURL is MessageTypes.
func (t types) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if mt, ok := t.find(protoreflect.FullName(typeName(url))); ok {
		return mt, nil
	}
	return nil, protoregistry.NotFound
}
