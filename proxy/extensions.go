package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"outrider/proxy/admin"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/http/hcm"
	"outrider/proxy/xds"
)

// HTTP filters whose configuration comes by discovery (ECDS).

// extension is one configuration, decoded for each direction of a listener: some
// filters differ.
type extension struct {
	source      *corev3.TypedExtensionConfig
	byDirection [config.Outbound + 1]*config.HTTPExtension
}

// decodeExtension is decode.Secret's like.
func (d *discovery) decodeExtension(e *corev3.TypedExtensionConfig) (*extension, error) {
	out := &extension{source: e}
	for direction := range out.byDirection {
		one, err := decode.HTTPExtension(e, config.Direction(direction), d.decoding())
		if err != nil {
			return nil, err
		}
		out.byDirection[direction] = one
	}
	return out, nil
}

// takeExtension is what ECDS brings.
func (d *discovery) takeExtension(r xds.Resource) (*extension, error) {
	m, err := openNamed(r, &corev3.TypedExtensionConfig{})
	if err != nil {
		return nil, err
	}
	return d.decodeExtension(m)
}

// extensionStats are extension_config_discovery.http_filter.<name>.*
func (d *discovery) extensionStats(name string) *xds.Stats {
	scope := d.server.registry.Scope("extension_config_discovery").Scope("http_filter")
	return xds.NewExtensionStats(scope.Tagged("envoy_resource_name", name))
}

// extensions subscribes to the configuration of a filter until cancel
// (hcm.Deps.Extensions).
func (n *needs) extensions(f *config.HTTPFilter, prepare hcm.Prepare) (cancel func(), err error) {
	source := f.Discovery.Source
	if !overStream(source) {
		return n.fileExtension(f, prepare)
	}
	u := &extensionUser{prepare: prepare, direction: n.listener.Direction}
	w, err := n.server.discovery.streams.of(source, xds.ExtensionType).filters.Watch(f.Name, xds.WatchOptions[*extension]{
		Check: u.check, Taken: u.taken, Removed: u.removed, FetchTimeout: source.InitialFetchTimeout,
	})
	if err != nil {
		return nil, err
	}
	if err := u.begin(w); err != nil {
		w.Close()
		return nil, err
	}
	if !f.Discovery.AtOnce {
		n.all = append(n.all, need{what: "configuration of filter", watch: w, optional: f.Discovery.Default != nil})
	}
	return w.Close, nil
}

// fileExtension follows the configuration of a filter in a file.
func (n *needs) fileExtension(f *config.HTTPFilter, prepare hcm.Prepare) (cancel func(), err error) {
	d := n.server.discovery
	return d.followContent(f.Discovery.Source, func(text []byte) error {
		all, _, err := resources(text, func() *corev3.TypedExtensionConfig { return &corev3.TypedExtensionConfig{} }, d.decoding(),
			func(e *corev3.TypedExtensionConfig, opts decode.Options) (*config.HTTPExtension, error) {
				return decode.HTTPExtension(e, n.listener.Direction, opts)
			})
		if err != nil {
			return err
		}
		for _, e := range all {
			if e.Name == f.Name {
				take, err := prepare(e)
				if err == nil {
					take()
				}
				return err
			}
		}
		return fmt.Errorf("there is no configuration of filter %q", f.Name)
	})
}

// extensionUser is one filter of one filter chain. A version is checked by all
// users before any of them takes it.
type extensionUser struct {
	prepare   hcm.Prepare
	direction config.Direction

	mu   sync.Mutex
	next func() // guarded by mu; takes what was checked
}

func (u *extensionUser) check(e *extension) error {
	take, err := u.prepare(e.byDirection[u.direction])
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.next = take
	return nil
}

func (u *extensionUser) taken(*extension) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next != nil {
		u.next()
	}
	u.next = nil
}

// removed goes back to the default.
func (u *extensionUser) removed() {
	take, err := u.prepare(nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil { // it was made before
		take()
	}
}

// begin takes the version that is there, unless a newer one comes at this moment.
func (u *extensionUser) begin(w *xds.Watch[*extension]) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	v, ok := w.Current()
	if !ok {
		return nil
	}
	take, err := u.prepare(v.Value.byDirection[u.direction])
	if err != nil {
		return err
	}
	take()
	return nil
}

// adminExtensions are the configurations of filters that have come, or were
// refused, by name.
func (s *Server) adminExtensions() []admin.Extension {
	byName := map[string]admin.Extension{}
	for _, one := range s.discovery.streams.all() {
		for name, v := range one.filters.Names() {
			if v.Value != nil {
				byName[name] = admin.Extension{Name: name, Version: v.Info, Updated: v.Updated, Source: v.Value.source}
			}
		}
		for _, refusal := range one.client.Refusals(xds.ExtensionType) {
			e := byName[refusal.Name]
			e.Name, e.Refused = cmp.Or(e.Name, refusal.Name), refusedFacts(refusal)
			byName[refusal.Name] = e
		}
	}
	out := make([]admin.Extension, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}
