package decode

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// stockBootstraps are in testdata, and accepted by Envoy as it is released.
var stockBootstraps = []string{"http.yaml", "http_more.yaml", "sidecar.yaml", "outbound.yaml", "secrets.json"}

func TestBootstrapsThatEnvoyTakesAreTaken(t *testing.T) {
	for _, name := range append(stockBootstraps, "metadata_exchange.yaml") {
		if _, err := BootstrapFile(filepath.Join("testdata", name), Options{}); err != nil {
			t.Errorf("%s:\n%v", name, err)
		}
	}
}

// resolver knows the types that have no Go package, for protojson.
type resolver struct {
	types
	*protoregistry.Types
}

func (r resolver) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if mt, ok := r.find(name); ok {
		return mt, nil
	}
	return nil, protoregistry.NotFound
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}
