package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
)

// What files bring: all of it or, of listeners, each for itself.

// look applies a file if its content is another than last time.
func (d *discovery) look(path string, apply func([]byte) error) error {
	text, err := readStable(path)
	if err != nil {
		return err
	}
	d.mu.Lock()
	last, seen := d.last[path]
	d.last[path] = string(text)
	d.mu.Unlock()
	if seen && last == string(text) {
		return nil
	}
	if err := apply(text); err != nil {
		return err
	}
	d.accept(path)
	return nil
}

// follow applies a file whenever its content changes, until ctx ends.
func (d *discovery) follow(ctx context.Context, source *certs.Source, apply func([]byte) error) {
	changed := func() {
		if err := d.look(source.Path, apply); err != nil {
			d.refuse(source.Path, err)
		}
	}
	if err := certs.Watch(ctx, certs.Dirs(source.Path, source.WatchedDirectory), changed); err != nil {
		d.refuse(source.Path, err)
	}
}

// rereads is how often a file is read until two readings agree (Envoy does the
// same for secrets).
const rereads = 5

// readStable reads a file that may be being written.
func readStable(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	for range rereads {
		if err != nil {
			return nil, err
		}
		again, err := os.ReadFile(path)
		if err != nil || string(again) == string(text) {
			return again, err
		}
		text = again
	}
	return nil, fmt.Errorf("%s changes while it is read", path)
}

// resources decodes every resource of a response; what is refused is named by
// its place.
func resources[P proto.Message, V any](text []byte, fresh func() P, opts decode.Options, convert func(P, decode.Options) (V, error)) ([]V, string, error) {
	resp, err := decode.Response(text)
	if err != nil {
		return nil, "", err
	}
	var out []V
	var errs []error
	for i, packed := range resp.GetResources() {
		m := fresh()
		if !packed.MessageIs(m) {
			errs = append(errs, fmt.Errorf("resources[%d]: %s is not wanted here", i, packed.GetTypeUrl()))
			continue
		}
		if err := packed.UnmarshalTo(m); err != nil {
			errs = append(errs, fmt.Errorf("resources[%d]: %w", i, err))
			continue
		}
		v, err := convert(m, opts)
		if err != nil {
			errs = append(errs, fmt.Errorf("resources[%d]: %w", i, err))
			continue
		}
		out = append(out, v)
	}
	return out, versionOf(resp, text), errors.Join(errs...)
}

// versionOf is the response's version_info, or a digest.
func versionOf(resp *discoveryv3.DiscoveryResponse, text []byte) string {
	if v := resp.GetVersionInfo(); v != "" {
		return v
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func (d *discovery) applyClusters(text []byte) error {
	clusters, version, err := resources(text, func() *clusterv3.Cluster { return &clusterv3.Cluster{} }, d.decoding(), decode.Cluster)
	if err != nil {
		return err
	}
	return d.setClusters(clusters, version)
}

// setClusters makes clusters the dynamic ones.
func (d *discovery) setClusters(clusters []*config.Cluster, version string) error {
	static := map[string]bool{}
	for _, c := range d.server.boot.Clusters {
		static[c.Name] = true
	}
	all := d.server.boot.Clusters
	for _, c := range clusters {
		if static[c.Name] {
			return fmt.Errorf("cluster %q is static, and cannot be changed", c.Name)
		}
		all = append(all[:len(all):len(all)], c)
	}
	if err := d.server.clusters.Apply(all); err != nil {
		return err
	}
	for _, c := range clusters {
		d.server.clusters.SetDynamic(c.Name)
	}
	d.mu.Lock()
	d.clusters, d.cds = all, version
	d.mu.Unlock()
	return nil
}

// applyListeners makes the listeners of text the dynamic ones. Each stands for
// itself: one that is refused keeps its old version, the others change.
func (d *discovery) applyListeners(text []byte) error {
	names := map[string]bool{}
	decodeOne := func(l *listenerv3.Listener, o decode.Options) (*config.Listener, error) {
		names[l.GetName()] = true
		return decode.Listener(l, o)
	}
	wanted, version, err := resources(text, func() *listenerv3.Listener { return &listenerv3.Listener{} }, d.decoding(), decodeOne)
	if version == "" {
		return err // the text itself cannot be read: it says nothing about any listener
	}
	return errors.Join(err, d.setListeners(wanted, names, version))
}

// setListeners makes wanted the dynamic listeners. Those whose names are in
// kept stay as they are if they are not wanted.
func (d *discovery) setListeners(wanted []*config.Listener, kept map[string]bool, version string) error {
	d.mu.Lock()
	d.lds = version
	d.mu.Unlock()
	var errs []error
	for _, l := range wanted {
		kept[l.Name] = true
		errs = append(errs, d.applyListener(l, version))
	}
	for _, l := range d.server.listeners.sorted() {
		if l.dynamic && !kept[l.name] {
			d.server.listeners.remove(l.name)
		}
	}
	return errors.Join(errs...)
}

func (d *discovery) applyListener(l *config.Listener, version string) error {
	live := d.server.listeners.get(l.Name)
	switch {
	case live != nil && !live.dynamic:
		return fmt.Errorf("listener %q is static, and cannot be changed", l.Name)
	case live != nil && live.has(l):
		return nil
	}
	return d.server.listeners.apply(l, version, true)
}

func (d *discovery) applyAssignments(source *certs.Source, text []byte) error {
	all, _, err := resources(text, func() *endpointv3.ClusterLoadAssignment { return &endpointv3.ClusterLoadAssignment{} }, d.decoding(), decode.Assignment)
	if err != nil {
		return err
	}
	for _, a := range all {
		d.assign(serviceKey(&config.EDS{ServiceName: a.ClusterName, Source: source}), a)
	}
	return nil
}
