package config

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"outrider/tlsmux"
)

// Listener is envoy.config.listener.v3.Listener.
type Listener struct {
	Name       string
	Address    Address
	Additional []Address // additional_addresses
	// NoBind is bind_to_port: false: reached only through use_original_dst.
	NoBind         bool
	UseOriginalDst bool
	Transparent    bool
	Freebind       bool
	Direction      Direction
	// NoServerFirst is metadata.filter_metadata["outrider"].server_first:
	// false: no server is dialled for a client that says nothing.
	NoServerFirst bool

	Filters []*ListenerFilter
	// FiltersTimeout is listener_filters_timeout; the default is 15 s; 0 is
	// no limit, as in Envoy.
	FiltersTimeout    time.Duration
	ContinueOnTimeout bool

	Chains       []*FilterChain
	DefaultChain *FilterChain // nil: none

	PerConnectionBufferLimit uint32 // bytes; default 1 MiB
	Backlog                  uint32 // tcp_backlog_size; 0: the system's
	ReusePort                bool
	Keepalive                *Keepalive
	SocketOptions            []SocketOption
	AccessLogs               []*AccessLog // access_log: of the listener, not of filters
	StatPrefix               string       // "": made from the address
	IgnoreGlobalConnLimit    bool
	// DrainModifyOnly is drain_type MODIFY_ONLY.
	DrainModifyOnly bool

	// Source is the Listener as given, for config_dump.
	Source proto.Message
}

// Direction is envoy.config.core.v3.TrafficDirection.
type Direction int

const (
	DirectionUnspecified Direction = iota
	Inbound
	Outbound
)

// ListenerFilter is envoy.config.listener.v3.ListenerFilter: exactly one of
// the pointers is set.
type ListenerFilter struct {
	Name string
	// Disabled is filter_disabled; nil: always enabled.
	Disabled *ListenerFilterPredicate

	OriginalDst   *OriginalDst
	TLSInspector  *TLSInspector
	HTTPInspector *HTTPInspector
	ProxyProtocol *ProxyProtocol
	OriginalSrc   *OriginalSrc
}

// ListenerFilterPredicate is ListenerFilterChainMatchPredicate: exactly one
// field is set.
type ListenerFilterPredicate struct {
	Any          bool
	Or, And      []*ListenerFilterPredicate
	Not          *ListenerFilterPredicate
	PortFrom, To int // destination_port_range, [PortFrom, To)
	IsPortRange  bool
}

// OriginalDst is envoy.extensions.filters.listener.original_dst.v3.
type OriginalDst struct{}

// OriginalSrc is envoy.extensions.filters.listener.original_src.v3: connect
// upstream from the client's address.
type OriginalSrc struct {
	BindPort bool   // with the client's port as well
	Mark     uint32 // SO_MARK of the upstream socket; 0: none
}

// TLSInspector is envoy.extensions.filters.listener.tls_inspector.v3.
type TLSInspector struct {
	InitialReadBuffer int // bytes; default MaxClientHello
	MaxClientHello    int // bytes; default and cap 16384
	// CloseOnParseError is close_connection_on_client_hello_parsing_errors.
	CloseOnParseError bool
}

// HTTPInspector is envoy.extensions.filters.listener.http_inspector.v3.
type HTTPInspector struct{}

// ProxyProtocol is envoy.extensions.filters.listener.proxy_protocol.v3.
type ProxyProtocol struct {
	AllowWithout bool // allow_requests_without_proxy_protocol
	DisallowV1   bool
	DisallowV2   bool
	// TLVs are rules: a TLV of that type goes into dynamic metadata.
	TLVs       []TLVRule
	Pass       *TLVPass // pass_through_tlvs; nil: none
	StatPrefix string
}

// TLVRule is ProxyProtocol.Rule.
type TLVRule struct {
	Type      byte
	Namespace string // default envoy.filters.listener.proxy_protocol
	Key       string
}

// FilterChain is envoy.config.listener.v3.FilterChain.
type FilterChain struct {
	Name  string // may be "" and need not be unique
	Match FilterChainMatch
	// TLS is the DownstreamTlsContext; nil is plaintext (raw_buffer).
	TLS *tlsmux.ServerConfig
	// ConnectTimeout is transport_socket_connect_timeout; 0 is none.
	ConnectTimeout time.Duration
	Filters        []*NetworkFilter
	// Digest tells equal chains from changed ones: it is over the chain's
	// whole proto.
	Digest string
	Source proto.Message
}

// FilterChainMatch is envoy.config.listener.v3.FilterChainMatch. Zero and nil
// criteria are unset.
type FilterChainMatch struct {
	DestinationPort      uint16 // 0: unset
	Prefixes             []netip.Prefix
	ServerNames          []string // lower case; "*.example.com" is a wildcard
	TransportProtocol    string   // "", "tls", "raw_buffer"
	ApplicationProtocols []string
	DirectSourcePrefixes []netip.Prefix
	SourceType           SourceType
	SourcePrefixes       []netip.Prefix
	SourcePorts          []uint16
}

// SourceType is FilterChainMatch.ConnectionSourceType.
type SourceType int

const (
	SourceAny SourceType = iota
	SourceSameIPOrLoopback
	SourceExternal
)

// NetworkFilter is envoy.config.listener.v3.Filter: exactly one of the
// pointers is set.
type NetworkFilter struct {
	Name string

	RBAC             *RBAC
	MetadataExchange *MetadataExchange
	SNICluster       *SNICluster
	ConnectionLimit  *ConnectionLimit
	IstioStats       *IstioStats
	// Terminal filters: the last filter of a chain, and only the last, is one.
	TCPProxy       *TCPProxy
	DirectResponse *DirectResponse
	Echo           *Echo
	HTTP           *HTTPConnectionManager
}

// Terminal reports whether f ends the chain.
func (f *NetworkFilter) Terminal() bool {
	return f.TCPProxy != nil || f.DirectResponse != nil || f.Echo != nil || f.HTTP != nil
}

// SNICluster is envoy.extensions.filters.network.sni_cluster.v3: the server
// name is the cluster's name.
type SNICluster struct{}

// ConnectionLimit is envoy.extensions.filters.network.connection_limit.v3.
type ConnectionLimit struct {
	StatPrefix     string
	MaxConnections uint64
	Delay          time.Duration
}

// DirectResponse is envoy.extensions.filters.network.direct_response.v3.
type DirectResponse struct{ Body []byte }

// Echo is envoy.extensions.filters.network.echo.v3.
type Echo struct{}

// MetadataExchange is Istio's
// envoy.tcp.metadataexchange.config.MetadataExchange.
type MetadataExchange struct {
	Protocol         string // the ALPN token, "istio-peer-exchange"
	EnableDiscovery  bool
	AdditionalLabels []string
}

// TCPProxy is envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.
type TCPProxy struct {
	StatPrefix string
	// Cluster, or Weighted if that is not empty.
	Cluster  string
	Weighted []WeightedCluster
	// MetadataMatch is for subset load balancing: refused by the decoder.
	IdleTimeout           time.Duration // default 1 h; 0 is none
	MaxConnectAttempts    uint32        // default 1
	MaxDownstreamDuration time.Duration // 0: none
	// DurationJitterPercent is max_downstream_connection_duration_jitter_percentage.
	DurationJitterPercent float64
	HashSourceIP          bool   // hash_policy source_ip
	HashFilterState       string // hash_policy filter_state key; "" none
	// TLVs are proxy_protocol_tlvs.
	TLVs       []TLV
	TLVMerge   TLVMerge
	AccessLogs []*AccessLog
	// FlushInterval is access_log_options.access_log_flush_interval; 0 none.
	FlushInterval time.Duration
	// FlushOnConnected is access_log_options.flush_access_log_on_connected.
	FlushOnConnected bool
	// Backoff is backoff_options, between connect attempts; zero: none.
	BackoffBase, BackoffMax time.Duration
}

// WeightedCluster is TcpProxy.WeightedCluster.ClusterWeight.
type WeightedCluster struct {
	Name   string
	Weight uint32
}
