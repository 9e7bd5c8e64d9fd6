package filter

import (
	"maps"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
	"outrider/proxy/rbac"
)

// Verdict is what one filter would do with a connection.
type Verdict struct {
	Filter string `json:"filter"`
	Type   string `json:"type"`
	// Denied says that the connection would end here, and Reason why; else
	// Reason is what the filter does.
	Denied bool   `json:"denied"`
	Reason string `json:"reason"`
	// Policy is the RBAC policy that matched, "" for none, and Policies why
	// the others did not, in the order of their evaluation.
	Policy   string              `json:"policy,omitempty"`
	Policies []rbac.PolicyResult `json:"policies,omitempty"`
	// Shadow is the verdict of RBAC's shadow rules; nil if it has none.
	Shadow *Verdict `json:"shadow,omitempty"`
	// Clusters is where tcp_proxy or the request would go, with the share of
	// each.
	Clusters []ClusterShare `json:"clusters,omitempty"`
	// Request is what a connection manager makes of the request that was asked
	// about; nil if none was.
	Request *RequestVerdict `json:"request,omitempty"`
}

// RequestVerdict is how a request finds its route and passes the filters.
type RequestVerdict struct {
	// VirtualHost is the one whose Domain matched; "" for none.
	VirtualHost string         `json:"virtual_host,omitempty"`
	Domain      string         `json:"domain,omitempty"`
	Routes      []RouteVerdict `json:"routes,omitempty"`
	// Filters are those before the router, up to the one that answers.
	Filters []Verdict `json:"http_filters,omitempty"`
}

// RouteVerdict is how one route fared, in the order in which they are tried.
type RouteVerdict struct {
	Route   string `json:"route"` // its name, or its place
	Matched bool   `json:"matched"`
	Failed  string `json:"failed,omitempty"` // the first criterion that did not match
}

// ClusterShare is a cluster and the share of connections that go to it, of 1.
type ClusterShare struct {
	Cluster string  `json:"cluster"`
	Share   float64 `json:"share"`
	// Hash is the hash policy's, if HasHash.
	Hash    uint64 `json:"hash,omitempty"`
	HasHash bool   `json:"has_hash,omitempty"`
	// Missing says that there is no such cluster now.
	Missing bool `json:"missing,omitempty"`
}

// scratch is the part of info that filters read, as a copy that they may
// write.
func scratch(info *flow.Info) *flow.Info {
	s := &flow.Info{
		Remote: info.Remote, DirectRemote: info.DirectRemote,
		Local: info.Local, DirectLocal: info.DirectLocal, LocalRestored: info.LocalRestored,
		UpstreamSource: info.UpstreamSource, UpstreamSocket: info.UpstreamSocket,
		ProxyHeader: info.ProxyHeader, TLVs: info.TLVs,
		Listener: info.Listener, FilterChain: info.FilterChain,
		TransportProtocol: info.TransportProtocol, SNI: info.SNI, ALPNs: info.ALPNs,
		Downstream:     info.Downstream,
		HTTP:           info.HTTP,
		FilterState:    maps.Clone(info.FilterState),
		DownstreamPeer: info.DownstreamPeer, UpstreamPeer: info.UpstreamPeer,
	}
	if info.DynamicMetadata != nil {
		s.DynamicMetadata = map[string]*structpb.Struct{}
		for ns, v := range info.DynamicMetadata {
			s.DynamicMetadata[ns] = proto.CloneOf(v)
		}
	}
	return s
}
