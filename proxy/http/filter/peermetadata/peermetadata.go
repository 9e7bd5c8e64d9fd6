// Package peermetadata is Istio's istio.metadata_exchange for requests: each
// side tells the other about its workload in header fields, which go no further
// than that.
package peermetadata

import (
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
)

// The methods of discovery and propagation. What else there is finds nothing:
// workload_discovery and upstream_filter_state have no source here, as in a
// proxy of Istio's without the extension for it.
const (
	istioHeaders = "istio_headers"
	baggage      = "baggage"
)

// New makes the filter of a *config.IstioHTTPExchange. It has no configuration
// of routes.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.IstioHTTPExchange)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of istio.metadata_exchange", cfg.Config)
	}
	node := d.Node
	if node == nil {
		node = &config.Node{}
	}
	w := peer.Local(node.Metadata, node.Locality.Region, node.Locality.Zone, own.AdditionalLabels)
	header, err := w.Header()
	if err != nil {
		return nil, err
	}
	x := &exchange{cfg: own, d: d, id: node.ID, metadata: header, baggage: w.Baggage(), known: known{additional: own.AdditionalLabels}}
	return filter.FactoryFunc(func(s filter.Stream) filter.Filter { return &exchanger{s: s, exchange: x} }), nil
}

// exchange is what all requests share.
type exchange struct {
	cfg                   *config.IstioHTTPExchange
	d                     filter.Deps
	id, metadata, baggage string // of this node
	known                 known
}

// exchanger is the filter of one request.
type exchanger struct {
	filter.Pass
	*exchange
	s filter.Stream
	// What the request had: an answer tells the client only what it has asked
	// for by telling it itself.
	hadID, hadMetadata bool
}

// RequestHead finds out who asks, and tells the upstream who we are.
func (x *exchanger) RequestHead(h *message.Head, _ bool) filter.Action {
	_, x.hadID = h.Fields.Get(peer.MetadataIDHeader)
	_, x.hadMetadata = h.Fields.Get(peer.MetadataHeader)
	info := x.s.Info()
	found := x.discover(x.cfg.DownstreamDiscovery, &h.Fields, info.DownstreamPeer)
	if info.DownstreamPeer == nil {
		info.DownstreamPeer = found
	}
	for _, m := range x.cfg.UpstreamPropagation {
		switch {
		case m.Name == baggage:
			h.Fields.Set(baggage, x.baggage)
		case m.Name == istioHeaders && !x.skips(m, x.s.Cluster()):
			h.Fields.Set(peer.MetadataIDHeader, x.id)
			h.Fields.Set(peer.MetadataHeader, x.metadata)
		}
	}
	return filter.Continue
}

// ResponseHead finds out who has answered, and tells the client who we are.
func (x *exchanger) ResponseHead(h *message.Head, _ bool) filter.Action {
	info := x.s.Info()
	found := x.discover(x.cfg.UpstreamDiscovery, &h.Fields, info.UpstreamPeer)
	if info.UpstreamPeer == nil {
		info.UpstreamPeer = found
	}
	for _, m := range x.cfg.DownstreamPropagation {
		switch {
		case m.Name == baggage:
			h.Fields.Set(baggage, x.baggage)
		case m.Name == istioHeaders && !x.skips(m, info.UpstreamCluster):
			if x.hadID {
				h.Fields.Set(peer.MetadataIDHeader, x.id)
			}
			if x.hadMetadata {
				h.Fields.Set(peer.MetadataHeader, x.metadata)
			}
		}
	}
	return filter.Continue
}

// discover is the peer by the first of methods that finds one, unless there is
// one already. The fields of all methods are taken away.
func (x *exchanger) discover(methods []config.IstioExchangeMethod, f *message.Fields, already *peer.Peer) *peer.Peer {
	found := already
	for _, m := range methods {
		if found == nil {
			found = x.find(m.Name, *f)
		}
	}
	for _, m := range methods {
		if m.Name == istioHeaders {
			f.Del(peer.MetadataIDHeader)
			f.Del(peer.MetadataHeader)
		}
	}
	return found
}

// find is the peer that f tells of by a method; nil if it tells of none, or
// nonsense.
func (x *exchanger) find(method string, f message.Fields) *peer.Peer {
	switch method {
	case istioHeaders:
		if text := f.Value(peer.MetadataHeader); text != "" {
			return x.known.of(text)
		}
	case baggage:
		if text, ok := f.Get(baggage); ok {
			return peer.New(peer.FromBaggage(text))
		}
	}
	return nil
}

// skips reports that nothing is to be told where a cluster is: outside of the
// mesh, or where its metadata forbid it (istio: {external, disable_mx}).
func (x *exchanger) skips(m config.IstioExchangeMethod, cluster string) bool {
	if cluster == "" || x.d.Clusters == nil {
		return false
	}
	if m.SkipExternal && cluster == "PassthroughCluster" {
		return true
	}
	c := x.d.Clusters.Get(cluster)
	if c == nil {
		return false
	}
	istio := c.Config().Metadata["istio"].GetFields()
	return m.SkipExternal && istio["external"].GetBoolValue() || istio["disable_mx"].GetBoolValue()
}
