package decode

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Response reads the file of a path_config_source: a DiscoveryResponse in YAML
// or JSON. Its resources have been read by their types, and taken out of the
// discovery Resource that may be around them, but not checked further: that is
// for Listener, Cluster, Assignment and Secret. The error is Errors.
func Response(data []byte) (*discoveryv3.DiscoveryResponse, error) {
	d := newDecoder(Options{})
	root := at{d: d}
	r := &discoveryv3.DiscoveryResponse{}
	d.parse(data, r, root)
	d.settle()
	for i, a := range r.GetResources() {
		in := root.item("resources", i)
		inner := d.unwrap(a, in)
		if want := r.GetTypeUrl(); want != "" && want != inner.GetTypeUrl() {
			in.in("@type").bad("%q is not the response's type_url, %q", shorten(inner.GetTypeUrl()), shorten(want))
		}
		r.Resources[i] = inner
	}
	shell := &discoveryv3.DiscoveryResponse{VersionInfo: r.GetVersionInfo(), TypeUrl: r.GetTypeUrl(), ResourceErrors: r.GetResourceErrors()}
	d.check(shell, root)
	if err := d.result(); err != nil {
		return nil, err
	}
	return r, nil
}

// unwrap is what stands in the discovery Resource in a, or a if there is none.
func (d *decoder) unwrap(a *anypb.Any, place at) *anypb.Any {
	wrapped, ok := d.open(a, place).(*discoveryv3.Resource)
	switch {
	case !ok:
		return a
	case wrapped.GetResource() == nil:
		place.in("resource").bad("must be set")
		return a
	case wrapped.GetTtl() != nil:
		place.in("ttl").bad("is not supported by outrider: what is in a file stays")
	}
	return wrapped.GetResource()
}
