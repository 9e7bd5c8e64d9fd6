package decode

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"outrider/proxy/config"
)

// filterDiscovery is where the configuration of a filter comes from. What may
// come must have a type among type_urls; one that outrider does not have is
// refused when it comes, for a control plane may have others to send.
func (d *decoder) filterDiscovery(name string, s *corev3.ExtensionConfigSource, place at) *config.FilterDiscovery {
	out := &config.FilterDiscovery{AtOnce: s.GetApplyDefaultConfigWithoutWarming()}
	if s.GetConfigSource() == nil {
		place.in("config_source").bad("must be set")
	} else {
		out.Source = d.source(s.GetConfigSource(), place.in("config_source"))
	}
	for _, url := range s.GetTypeUrls() {
		out.Types = append(out.Types, typeName(url))
	}
	if len(out.Types) > 0 && !slices.ContainsFunc(out.Types, d.knows) {
		place.in("type_urls").bad("outrider supports none of %s", shorten(strings.Join(out.Types, ", ")))
	}
	if name == "" {
		place.bad("needs a filter with a name: by that it is asked for")
	}
	switch in := place.in("default_config"); {
	case s.GetDefaultConfig() != nil:
		message := d.open(s.GetDefaultConfig(), in)
		if message == nil {
			break
		}
		d.notTerminal(message, in)
		if typ := nameOf(message); !slices.Contains(out.Types, typ) {
			in.bad("%s is not among type_urls", typ)
		}
		out.Default = d.httpFilter(name, message, in)
	case out.AtOnce:
		place.in("apply_default_config_without_warming").bad("needs a default_config")
	}
	return out
}

// typeName is the message's name in a type URL.
func typeName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

func nameOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().FullName()) }

// knows says that a message can be an HTTP filter here.
func (d *decoder) knows(typ string) bool {
	name := protoreflect.FullName(typ)
	_, ok := supported(name)
	return ok || d.opts.HTTPFilters[name] != nil
}

// notTerminal refuses the router.
func (d *decoder) notTerminal(message proto.Message, place at) {
	if _, isRouter := message.(*routerv3.Router); isRouter {
		place.bad("%s ends the chain, and does not come by discovery", nameOf(message))
	}
}

// HTTPExtension decodes the configuration of an HTTP filter that arrived by
// itself, for listeners of a direction. Paths in the error, which is Errors,
// begin at the TypedExtensionConfig.
func HTTPExtension(e *corev3.TypedExtensionConfig, direction config.Direction, opts Options) (*config.HTTPExtension, error) {
	d := newDecoder(opts.dynamic())
	d.direction = direction
	root := at{d: d}
	if !d.check(e, root) {
		return nil, d.result()
	}
	out := &config.HTTPExtension{Name: e.GetName(), Source: e}
	in := root.in("typed_config")
	if message := d.open(anyOf(e, in), in); message != nil {
		d.notTerminal(message, in)
		out.Type, out.Config = nameOf(message), d.httpFilter(e.GetName(), message, in)
	}
	return out, d.finish()
}
