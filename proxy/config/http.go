package config

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"outrider/certs"
)

// HTTPConnectionManager is
// envoy.extensions.filters.network.http_connection_manager.v3.
type HTTPConnectionManager struct {
	StatPrefix string
	Codec      CodecType
	// Routes is route_config, RDS is rds: exactly one of them is set.
	Routes *RouteConfig
	RDS    *RDS

	Filters    []*HTTPFilter // the last one, and only it, is the router
	AccessLogs []*AccessLog
	// LogInterval is access_log_options.access_log_flush_interval; 0 none.
	LogInterval   time.Duration
	LogOnRequest  bool // flush_access_log_on_new_request
	LogOnTunnel   bool // flush_log_on_tunnel_successfully_established
	HTTP1         HTTP1Options
	HTTP2         HTTP2Options
	Common        CommonHTTPOptions
	ServerName    string // default "envoy"
	ServerHeader  ServerHeaderMode
	SchemeToSet   string // scheme_header_transformation.scheme_to_overwrite; "": none
	SchemeMatchUp bool   // scheme_header_transformation.match_upstream

	MaxRequestHeadersKB   uint32        // default 60
	StreamIdleTimeout     time.Duration // default 5 min; 0 none
	RequestTimeout        time.Duration // 0 none
	RequestHeadersTimeout time.Duration // 0 none
	DrainTimeout          time.Duration // default 5 s
	DelayedCloseTimeout   time.Duration // default 1 s

	UseRemoteAddress       bool
	XFFTrustedHops         uint32
	SkipXFFAppend          bool
	Via                    string
	GenerateRequestID      bool // default true
	PreserveRequestID      bool // preserve_external_request_id
	AlwaysSetRequestID     bool // always_set_request_id_in_response
	RepresentIPv4AsMapped  bool // represent_ipv4_remote_address_as_ipv4_mapped_ipv6
	InternalPrefixes       []netip.Prefix
	InternalPrefixesSet    bool // internal_address_config is there
	InternalUnixSockets    bool
	ForwardClientCert      ForwardClientCert
	SetClientCert          ClientCertDetails
	NormalizePath          bool
	MergeSlashes           bool
	EscapedSlashes         EscapedSlashes
	StripMatchingPort      bool
	StripAnyPort           bool
	StripTrailingHostDot   bool
	AppendXForwardedPort   bool
	Proxy100Continue       bool
	StreamErrorOnInvalid   bool // stream_error_on_invalid_http_message
	Upgrades               []UpgradeConfig
	LocalReply             *LocalReplyConfig
	AppendLocalOverload    bool
	AddProxyProtocolHeader bool
}

// CodecType is HttpConnectionManager.CodecType.
type CodecType int

const (
	CodecAuto CodecType = iota
	CodecHTTP1
	CodecHTTP2
)

// RDS is where a route configuration comes from.
type RDS struct {
	Name   string
	Source *certs.Source
}

// HTTP1Options is envoy.config.core.v3.Http1ProtocolOptions.
type HTTP1Options struct {
	AllowAbsoluteURL   bool // default true
	AcceptHTTP10       bool
	DefaultHost        string // default_host_for_http_10
	EnableTrailers     bool
	AllowChunkedLength bool
	ProperCase         bool // header_key_format.proper_case_words
	StreamErrorsOnly   bool // override_stream_error_on_invalid_http_message
	SendAbsoluteURL    bool // send_fully_qualified_url
	IgnoreUpgrades     []certs.StringMatcher
}

// HTTP2Options is envoy.config.core.v3.Http2ProtocolOptions; 0 is the default
// of package h2.
type HTTP2Options struct {
	HeaderTableSize, MaxStreams, StreamWindow, ConnWindow uint32
	AllowConnect                                          bool
	MaxOutboundFrames, MaxOutboundControlFrames           uint32
	MaxEmptyDataFrames, MaxPriority, MaxWindowUpdates     *uint32
	StreamErrorsOnly                                      bool
	KeepaliveInterval, KeepaliveTimeout, KeepaliveIdle    time.Duration
	KeepaliveJitterPercent                                float64
}

// CommonHTTPOptions is envoy.config.core.v3.HttpProtocolOptions.
type CommonHTTPOptions struct {
	IdleTimeout   time.Duration // default 1 h; 0 none
	MaxDuration   time.Duration // max_connection_duration; 0 none
	MaxHeaders    uint32        // default 100
	MaxHeadersKB  uint32        // max_response_headers_kb; 0 is 80 for HTTP/1, 60 for HTTP/2
	MaxStreamTime time.Duration // max_stream_duration; 0 none
	Underscores   Underscores
	MaxRequests   uint32 // max_requests_per_connection; 0 no limit
}

// Underscores is HeadersWithUnderscoresAction.
type Underscores int

const (
	UnderscoresAllow Underscores = iota
	UnderscoresReject
	UnderscoresDrop
)

// ServerHeaderMode is ServerHeaderTransformation.
type ServerHeaderMode int

const (
	ServerOverwrite ServerHeaderMode = iota
	ServerAppendIfAbsent
	ServerPassThrough
)

// ForwardClientCert is ForwardClientCertDetails.
type ForwardClientCert int

const (
	XFCCSanitize ForwardClientCert = iota
	XFCCForwardOnly
	XFCCAppendForward
	XFCCSanitizeSet
	XFCCAlwaysForwardOnly
)

// ClientCertDetails is SetCurrentClientCertDetails.
type ClientCertDetails struct{ Subject, Cert, Chain, DNS, URI bool }

// EscapedSlashes is PathWithEscapedSlashesAction.
type EscapedSlashes int

const (
	SlashesKeep EscapedSlashes = iota
	SlashesReject
	SlashesUnescapeRedirect
	SlashesUnescapeForward
)

// UpgradeConfig is an upgrade that is allowed, or not. Filters are in place of
// the connection manager's if there are any.
type UpgradeConfig struct {
	Type    string // lower case: websocket, connect
	Enabled bool
	Filters []*HTTPFilter // nil: the manager's
}

// LocalReplyConfig is LocalReplyConfig: mappers in order, then the format.
type LocalReplyConfig struct {
	Mappers []LocalReplyMapper
	Body    *BodyFormat
}

// LocalReplyMapper changes the replies that its filter takes.
type LocalReplyMapper struct {
	Filter  *AccessLogFilter
	Status  uint32 // 0: as it is
	Body    *string
	Format  *BodyFormat
	Headers []HeaderValueOption
}

// BodyFormat is SubstitutionFormatString, in the language of access logs.
type BodyFormat struct {
	Log         *AccessLog // Format or JSON
	ContentType string     // "": text/plain, or application/json
}

// RouteConfig is envoy.config.route.v3.RouteConfiguration.
type RouteConfig struct {
	Name         string
	VirtualHosts []*VirtualHost
	Headers      HeaderOps
	InternalOnly []string // internal_only_headers, lower case
	// MostSpecificWins is most_specific_header_mutations_wins.
	MostSpecificWins       bool
	ValidateClusters       bool
	MaxDirectResponseBytes uint32 // default 4096; 0 no limit
	IgnorePortInHost       bool
	IgnorePathParameters   bool // ignore_path_parameters_in_path_matching
	PerFilter              map[string]*FilterOverride
	MirrorPolicies         []MirrorPolicy
	Digest                 string
	Source                 proto.Message
}

// VirtualHost is envoy.config.route.v3.VirtualHost.
type VirtualHost struct {
	Name            string
	Domains         []string // lower case
	Routes          []*Route
	RequireTLS      RequireTLS
	Headers         HeaderOps
	PerFilter       map[string]*FilterOverride
	Retry           *RetryPolicy
	CORS            *CORSPolicy // nil: none
	MirrorPolicies  []MirrorPolicy
	IncludeAttempts bool // include_request_attempt_count
	AttemptsInReply bool // include_attempt_count_in_response
	TimeoutHeader   bool // include_is_timeout_retry_header
	BufferLimit     *uint32
	VirtualClusters []VirtualCluster
	RateLimits      []RateLimit
}

// VirtualCluster is a group of requests that has stats of its own.
type VirtualCluster struct {
	Name    string
	Headers []HeaderMatcher
}

// RequireTLS is VirtualHost.TlsRequirementType.
type RequireTLS int

const (
	TLSNotRequired RequireTLS = iota
	TLSForExternal
	TLSForAll
)

// Route is envoy.config.route.v3.Route: exactly one of Action, Redirect,
// Direct and NonForwarding is set.
type Route struct {
	Name          string
	Match         RouteMatch
	Action        *RouteAction
	Redirect      *Redirect
	Direct        *DirectReply
	NonForwarding bool
	Headers       HeaderOps
	PerFilter     map[string]*FilterOverride
	BufferLimit   *uint32
	StatPrefix    string
	Metadata      proto.Message // envoy.config.core.v3.Metadata; nil none
	Decorator     string
}

// RouteMatch is envoy.config.route.v3.RouteMatch: one of the path criteria,
// and all of the others.
type RouteMatch struct {
	Prefix, Path, PathSeparatedPrefix *string
	Regex                             string // of the whole path, without query
	Template                          string // uri_template
	Connect                           bool   // connect_matcher
	IgnoreCase                        bool   // case_sensitive: false
	RuntimePPM                        *uint32
	RuntimeKey                        string
	Headers                           []HeaderMatcher
	Query                             []QueryMatcher
	Cookies                           []CookieMatcher
	GRPC                              bool
	TLSPresented, TLSValidated        *bool // tls_context
	Metadata                          []MetadataMatcher
	FilterState                       []FilterStateMatcher
}

// HeaderMatcher is envoy.config.route.v3.HeaderMatcher: one of the criteria;
// none of them is that the header is there.
type HeaderMatcher struct {
	Name           string // lower case, or a pseudo-header
	String         *certs.StringMatcher
	Range          *Range64
	Present        *bool
	Invert         bool
	MissingAsEmpty bool
}

// Range64 is envoy.type.v3.Int64Range: [Start, End).
type Range64 struct{ Start, End int64 }

// QueryMatcher is QueryParameterMatcher: neither criterion is presence.
type QueryMatcher struct {
	Name    string
	String  *certs.StringMatcher
	Present *bool
}

// CookieMatcher is envoy.config.route.v3.CookieMatcher.
type CookieMatcher struct {
	Name   string
	String *certs.StringMatcher
	Invert bool
}

// RouteAction is envoy.config.route.v3.RouteAction: one of Cluster,
// ClusterHeader and Weighted is set.
type RouteAction struct {
	Cluster       string
	ClusterHeader string // lower case
	Weighted      *WeightedClusters
	// NotFoundStatus is cluster_not_found_response_code; default 503.
	NotFoundStatus int

	PrefixRewrite       string
	RegexRewrite        *RegexRewrite
	PathTemplateRewrite string // path_rewrite_policy uri_template_rewrite
	PathFormatRewrite   string // path_rewrite: a format
	HostRewrite         string // host_rewrite_literal
	AutoHostRewrite     bool
	HostRewriteHeader   string // lower case
	HostRewritePath     *RegexRewrite
	HostRewriteFormat   string
	AppendXFHost        bool // append_x_forwarded_host

	Timeout          time.Duration // default 15 s; 0 none
	IdleTimeout      *time.Duration
	FlushTimeout     *time.Duration
	MaxStream        *MaxStreamDuration
	GRPCTimeoutMax   *time.Duration // max_grpc_timeout, deprecated
	GRPCTimeoutOff   time.Duration  // grpc_timeout_offset
	Retry            *RetryPolicy
	MirrorPolicies   []MirrorPolicy
	HighPriority     bool
	HashPolicies     []HashPolicy
	InternalRedirect *InternalRedirect
	Upgrades         []UpgradeConfig
	CORS             *CORSPolicy
	EarlyData        bool
	RateLimits       []RateLimit
	// IncludeHostRates is include_vh_rate_limits.
	IncludeHostRates bool
}

// MaxStreamDuration is RouteAction.MaxStreamDuration.
type MaxStreamDuration struct {
	Max        *time.Duration
	GRPCMax    *time.Duration // grpc_timeout_header_max; 0 is no limit
	GRPCOffset time.Duration
}

// WeightedClusters is envoy.config.route.v3.WeightedCluster.
type WeightedClusters struct {
	Clusters     []WeightedHTTPCluster
	Total        uint64
	RandomHeader string // header_name of random_value_specifier; lower case
	UseHash      bool
}

// WeightedHTTPCluster is WeightedCluster.ClusterWeight: a name or the header
// that has it.
type WeightedHTTPCluster struct {
	Name, Header string
	Weight       uint32
	Headers      HeaderOps
	HostRewrite  string
	PerFilter    map[string]*FilterOverride
}

// RegexRewrite is RegexMatchAndSubstitute; \1 to \9 stand for groups.
type RegexRewrite struct{ Pattern, Substitution string }

// Redirect is RedirectAction. Zero fields stay as they are in the request.
type Redirect struct {
	HTTPS         bool
	Scheme        string
	Host          string
	Port          uint32
	Path          string
	PrefixRewrite *string
	RegexRewrite  *RegexRewrite
	Status        int // default 301
	StripQuery    bool
}

// DirectReply is DirectResponseAction.
type DirectReply struct {
	Status int
	Body   []byte
	// Format, if not nil, makes the body.
	Format *BodyFormat
}

// RetryPolicy is envoy.config.route.v3.RetryPolicy.
type RetryPolicy struct {
	On                 []string // retry_on, split
	Retries            *uint32  // num_retries; default 1
	PerTry, PerTryIdle time.Duration
	StatusCodes        []uint32
	RetriableHeaders   []HeaderMatcher
	RequestHeaders     []HeaderMatcher // retriable_request_headers
	BackoffBase        time.Duration   // default 25 ms
	BackoffMax         time.Duration   // default 10 * base
	RateLimitedHeaders []ResetHeader
	RateLimitedMax     time.Duration // default 300 s
	PreviousHosts      bool          // retry_host_predicate previous_hosts
	OmitCanary         bool
	HostAttempts       int // host_selection_retry_max_attempts, default 1
}

// ResetHeader is RetryPolicy.ResetHeader.
type ResetHeader struct {
	Name string // lower case
	Unix bool   // UNIX_TIMESTAMP, else SECONDS
}

// MirrorPolicy is RouteAction.RequestMirrorPolicy.
type MirrorPolicy struct {
	Cluster, ClusterHeader string
	RuntimePPM             *uint32
	RuntimeKey             string
	Headers                []HeaderValueOption // those of Mutations that append
	Mutations              []HeaderMutate      // request_headers_mutations, in order
	NoShadowSuffix         bool                // disable_shadow_host_suffix_append
	HostRewrite            string
}

// HashPolicy is RouteAction.HashPolicy: exactly one of the criteria is set.
type HashPolicy struct {
	Header      string // lower case
	HeaderRegex *RegexRewrite
	Cookie      *HashCookie
	SourceIP    bool
	Query       string
	FilterState string
	Terminal    bool
}

// HashCookie is HashPolicy.Cookie; without TTL the cookie is not made.
type HashCookie struct {
	Name, Path string
	TTL        *time.Duration
	Attributes [][2]string
}

// InternalRedirect is InternalRedirectPolicy.
type InternalRedirect struct {
	Max              uint32 // default 1
	Codes            []uint32
	AllowCrossScheme bool
	CopyHeaders      []string
	// Predicates by name: previous_routes, allow_listed_routes, safe_cross_scheme.
	PreviousRoutes  bool
	SafeCrossScheme bool
	AllowedRoutes   []string // nil: no allow_listed_routes
}

// HeaderOps is what is added and removed on requests and responses at one
// level of the route configuration.
type HeaderOps struct {
	RequestAdd, ResponseAdd       []HeaderValueOption
	RequestRemove, ResponseRemove []string // lower case
}

// HeaderValueOption is envoy.config.core.v3.HeaderValueOption. Value is a
// format in the language of access logs.
type HeaderValueOption struct {
	Name, Value string
	Action      HeaderAction
	KeepEmpty   bool
}

// HeaderAction is HeaderValueOption.HeaderAppendAction.
type HeaderAction int

const (
	HeaderAppend HeaderAction = iota // APPEND_IF_EXISTS_OR_ADD
	HeaderAddIfAbsent
	HeaderOverwrite // OVERWRITE_IF_EXISTS_OR_ADD
	HeaderOverwriteIfExists
)

// UpstreamHTTP is a cluster's
// envoy.extensions.upstreams.http.v3.HttpProtocolOptions.
type UpstreamHTTP struct {
	Mode UpstreamHTTPMode
	// TakesHTTP2 says that HTTP/2 may be spoken: it is explicit, auto, or has
	// options under use_downstream_protocol_config.
	TakesHTTP2 bool
	HTTP1      HTTP1Options
	HTTP2      HTTP2Options
	Common     CommonHTTPOptions
	// Upstream options of UpstreamHttpProtocolOptions.
	AutoSNI, AutoSANValidation bool
	AutoSNIHeader              string // override_auto_sni_header
	// Preconnect is the cluster's preconnect_policy per_upstream ratio; 0 is 1.
	Preconnect float64
}

// UpstreamHTTPMode is how a cluster's connections choose their protocol.
type UpstreamHTTPMode int

const (
	UpstreamHTTP1  UpstreamHTTPMode = iota // explicit; the default
	UpstreamHTTP2                          // explicit
	UpstreamFollow                         // use_downstream_protocol_config
	UpstreamAuto                           // auto_config: ALPN decides
)
