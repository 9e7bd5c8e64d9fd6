package decode

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	upstreamproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
)

// proxySocket is the transport socket that c wraps, with a PROXY header before
// it.
func (d *decoder) proxySocket(c *upstreamproxyv3.ProxyProtocolUpstreamTransport, name string, place at) config.TransportSocket {
	in := place.in("transport_socket")
	out := d.clientSocket(c.GetTransportSocket(), in)
	if out.ProxyProtocol != nil {
		in.bad("is another PROXY header, and a connection has one")
	}
	cfg, in := c.GetConfig(), place.in("config")
	out.Name = name
	out.ProxyProtocol = &config.UpstreamProxyProtocol{
		V2:    cfg.GetVersion() == corev3.ProxyProtocolConfig_V2,
		Pass:  d.tlvPass(cfg.GetPassThroughTlvs()),
		Added: d.tlvs(cfg.GetAddedTlvs(), "added_tlvs", in),
	}
	if !out.ProxyProtocol.V2 && (out.ProxyProtocol.Pass != nil || len(out.ProxyProtocol.Added) > 0) {
		in.in("version").bad("V1 has no TLVs: V2 is needed for pass_through_tlvs and added_tlvs")
	}
	return out
}

func (d *decoder) tlvPass(p *corev3.ProxyProtocolPassThroughTLVs) *config.TLVPass {
	if p == nil {
		return nil
	}
	out := &config.TLVPass{All: p.GetMatchType() == corev3.ProxyProtocolPassThroughTLVs_INCLUDE_ALL}
	for _, kind := range p.GetTlvType() { // each below 256, by a rule of the proto
		out.Types = append(out.Types, byte(kind))
	}
	return out
}

// tlvs refuses a type that is there twice, of which Envoy takes the first.
func (d *decoder) tlvs(list []*corev3.TlvEntry, name string, place at) []config.TLV {
	var out []config.TLV
	seen := map[uint32]bool{}
	for i, t := range list {
		in := place.item(name, i)
		one := config.TLV{Type: byte(t.GetType()), Value: t.GetValue()}
		if t.GetType() > 255 {
			in.in("type").bad("%d is not a type: it has one byte", t.GetType())
		}
		if seen[t.GetType()] {
			in.in("type").bad("%d is there twice", t.GetType())
		}
		seen[t.GetType()] = true
		switch f := t.GetFormatString(); {
		case f != nil && len(t.GetValue()) > 0:
			in.bad("only one of value, format_string may be set")
		case f != nil:
			d.tlvFormat(f, &one, in.in("format_string"))
		case len(t.GetValue()) == 0:
			in.bad("one of value, format_string must be set")
		case len(t.GetValue()) > 1<<16-1:
			in.in("value").bad("%d bytes, more than 65535", len(t.GetValue()))
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) tlvFormat(f *corev3.SubstitutionFormatString, out *config.TLV, place at) {
	var text config.AccessLog
	d.logFormat(f, &text, place)
	out.Format, out.OmitEmpty = text.Format, text.OmitEmpty
	switch {
	case text.JSON != nil:
		place.in("json_format").bad("is not supported by outrider here: use text_format_source")
	case text.Format == "":
		place.bad("is empty")
	}
}

// perHostTLVs is where an endpoint's metadata has TLVs (Envoy:
// MetadataFilters::ENVOY_TRANSPORT_SOCKETS_PROXY_PROTOCOL).
const perHostTLVs = "envoy.transport_sockets.proxy_protocol"

func (d *decoder) hostTLVs(m *corev3.Metadata, place at) []config.TLV {
	packed := m.GetTypedFilterMetadata()[perHostTLVs]
	if packed == nil {
		return nil
	}
	in := place.entry("typed_filter_metadata", perHostTLVs)
	host := &corev3.PerHostConfig{}
	if err := packed.UnmarshalTo(host); err != nil {
		in.bad("%v", err)
		return nil
	}
	d.vet(host.ProtoReflect(), in)
	out := d.tlvs(host.GetAddedTlvs(), "added_tlvs", in)
	for i, t := range out {
		if t.Format != "" {
			in.item("added_tlvs", i).in("format_string").bad("is not supported in metadata, nor by Envoy: use value")
		}
	}
	return out
}

// peerTLVs is the cluster's choice to tell its servers who the client is.
func (d *decoder) peerTLVs(c *clusterv3.Cluster, out *config.Cluster, place at) {
	own := c.GetMetadata().GetFilterMetadata()[ownNamespace].GetFields()
	in := place.in("metadata").entry("filter_metadata", ownNamespace)
	for _, key := range sortedKeys(own) {
		value, ok := own[key].GetKind().(*structpb.Value_BoolValue)
		switch {
		case key != "proxy_protocol_peer":
			in.in(key).bad("is not known: there is proxy_protocol_peer")
		case !ok:
			in.in(key).bad("%s is not a boolean", shorten(own[key].String()))
		case value.BoolValue && !tellPeer(out):
			in.in(key).bad("needs a transport socket envoy.transport_sockets.upstream_proxy_protocol with version V2, and there is none")
		}
	}
}

// tellPeer reports whether any transport socket of c could be told to.
func tellPeer(c *config.Cluster) bool {
	found := false
	tell := func(s *config.TransportSocket) {
		if s.ProxyProtocol != nil && s.ProxyProtocol.V2 {
			s.ProxyProtocol.Peer, found = true, true
		}
	}
	tell(&c.TransportSocket)
	for i := range c.SocketMatches {
		tell(&c.SocketMatches[i].Socket)
	}
	return found
}
