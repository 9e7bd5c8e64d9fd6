package config

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
)

// HTTPFilter is HttpFilter of the connection manager. Config is a pointer to
// one of the types of this file, or what the decoder of a filter from outside
// has made.
type HTTPFilter struct {
	Name     string
	Disabled bool // until a route enables it
	Config   any  // nil if it comes by Discovery
	// Discovery is where Config comes from; nil: it is there.
	Discovery *FilterDiscovery
}

// FilterDiscovery is envoy.config.core.v3.ExtensionConfigSource: by the name of
// the filter, from Source.
type FilterDiscovery struct {
	Source *certs.Source
	// Types are the messages that may come: type_urls without their hosts.
	Types []string
	// Default is default_config, decoded like HTTPFilter.Config; nil for none.
	Default any
	// AtOnce is apply_default_config_without_warming.
	AtOnce bool
}

// HTTPExtension is envoy.config.core.v3.TypedExtensionConfig with an HTTP
// filter.
type HTTPExtension struct {
	Name   string
	Type   string // the name of the message
	Config any    // as HTTPFilter.Config
	Source proto.Message
}

// FilterOverride is an entry of typed_per_filter_config (and FilterConfig, if
// it is in one): what a filter has in place of, or added to, its own
// configuration for a virtual host, a route or a weighted cluster. Config is nil
// if it only says whether the filter is disabled.
type FilterOverride struct {
	Disabled bool
	Config   any
}

// HTTPRouter is envoy.extensions.filters.http.router.v3.Router.
type HTTPRouter struct {
	NoDynamicStats        bool // dynamic_stats: false
	SuppressEnvoyHeaders  bool
	StrictCheckHeaders    []string
	RespectExpectedRq     bool // respect_expected_rq_timeout
	NoGRPCRequestFailures bool // suppress_grpc_request_failure_code_stats
	UpstreamLogs          []*AccessLog
	StartChildSpan        bool
}

// HTTPRBAC is envoy.extensions.filters.http.rbac.v3.RBAC, and, as an override,
// RBACPerRoute (nil RBAC there: the filter does nothing).
type HTTPRBAC struct {
	RBAC *RBAC
}

// HTTPCORS is envoy.extensions.filters.http.cors.v3.Cors.
type HTTPCORS struct{}

// CORSPolicy is CorsPolicy, of a virtual host or a route.
type CORSPolicy struct {
	Origins                                           []certs.StringMatcher
	AllowMethods, AllowHeaders, ExposeHeaders, MaxAge string
	// nil: what the next less specific policy says; in the end false, false and
	// true.
	Credentials, PrivateNetwork, ForwardPreflights *bool
	EnabledPPM, ShadowPPM                          uint32 // enabled: default 1000000; shadow: 0
}

// HTTPFault is envoy.extensions.filters.http.fault.v3.HTTPFault.
type HTTPFault struct {
	Delay            *FaultDelay
	Abort            *FaultAbort
	RatePPM          uint32 // of response_rate_limit
	RateUnit         uint32 // as FaultDelay.Unit
	RateKBps         uint64 // response_rate_limit.fixed_limit; 0 none
	RateByHeader     bool   // response_rate_limit.header_limit
	UpstreamCluster  string
	Headers          []HeaderMatcher
	DownstreamNodes  []string
	MaxActive        *uint32
	NoStatsByCluster bool // disable_downstream_cluster_stats
	// Metadata is filter_metadata: what a request gets under the filter's name
	// when it is delayed or aborted; nil nothing.
	Metadata *structpb.Struct
}

// FaultDelay is FaultDelay: Fixed, or by header.
type FaultDelay struct {
	Fixed    time.Duration
	ByHeader bool
	PPM      uint32
	// Unit is 1 of the percentage in a million: 10000, 100 or 1. A header that
	// lowers the percentage is in the same unit.
	Unit uint32
}

// FaultAbort is FaultAbort: an HTTP status, a gRPC status, or by header.
type FaultAbort struct {
	Status   int
	GRPC     *uint32
	ByHeader bool
	PPM      uint32
	Unit     uint32 // as FaultDelay.Unit
}

// HTTPHealthCheckFilter is
// envoy.extensions.filters.http.health_check.v3.HealthCheck.
type HTTPHealthCheckFilter struct {
	PassThrough bool
	CacheTime   time.Duration
	MinHealthy  map[string]float64 // cluster_min_healthy_percentages
	Headers     []HeaderMatcher
}

// LocalRateLimit is
// envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit.
type LocalRateLimit struct {
	StatPrefix            string
	Status                int // default 429
	Bucket                *TokenBucket
	EnabledPPM            uint32              // default 0
	EnforcedPPM           uint32              // default 0
	RequestAdd            []HeaderValueOption // request_headers_to_add_when_not_enforced
	ResponseAdd           []HeaderValueOption
	PerConnection         bool // local_rate_limit_per_downstream_connection
	XRateLimitHeaders     bool // enable_x_ratelimit_headers DRAFT_VERSION_03
	GRPCResourceExhausted bool // rate_limited_as_resource_exhausted
	RetryAfter            bool // enable_retry_after_header
	Descriptors           []RateDescriptor
	// MaxDynamic is max_dynamic_descriptors; default 20.
	MaxDynamic uint32
	// SkipDefault is always_consume_default_token_bucket false.
	SkipDefault bool
	// RateLimits make the descriptors of requests; nil: those of the route and
	// the virtual host do, by Stage and VirtualHosts.
	RateLimits   []RateLimit
	Stage        uint32
	VirtualHosts VirtualHostRates
}

// VirtualHostRates is VhRateLimitsOptions: whether a virtual host's rate limits
// count beside those of the route.
type VirtualHostRates int

const (
	RatesOverride VirtualHostRates = iota // if the route has none
	RatesInclude
	RatesIgnore
)

// TokenBucket is envoy.type.v3.TokenBucket.
type TokenBucket struct {
	Max, PerFill uint32
	Interval     time.Duration
}

// RateDescriptor is LocalRateLimitDescriptor. An entry with an empty value is
// for any value, and each value has a bucket of its own.
type RateDescriptor struct {
	Entries [][2]string
	Bucket  TokenBucket
	Shadow  bool // shadow_mode: counted, but not refused
}

// RateLimit is envoy.config.route.v3.RateLimit: its actions make one descriptor
// of a request, or none if one of them makes nothing.
type RateLimit struct {
	Stage    uint32
	Disabled bool // disable_key is set: of use to global rate limits alone
	Actions  []RateAction
	Hits     *uint64 // hits_addend.number; nil is 1
}

// RateAction is RateLimit.Action: an entry of a descriptor. One criterion is
// set; Key is the entry's, never empty.
type RateAction struct {
	Key string
	// Value is of generic_key, and of the matches if they match.
	Value              string
	Default            string // default_value
	SourceCluster      bool
	DestinationCluster bool
	RemoteAddress      bool
	Masked             *RateMask
	Header             string // lower case
	Query              string
	SkipIfAbsent       bool // of Header, Query and Metadata
	Generic            bool
	HeaderMatch        []HeaderMatcher // with Expect
	QueryMatch         []QueryMatcher  // with Expect
	Expect             bool            // expect_match; default true
	Metadata           *RateMetadata
}

// RateMask is MaskedRemoteAddress: the lengths of the prefixes.
type RateMask struct{ V4, V6 int }

// RateMetadata is MetaData: a text of the dynamic metadata, or with Route of the
// route's.
type RateMetadata struct {
	Namespace string
	Path      []string
	Route     bool
}

// HTTPBuffer is envoy.extensions.filters.http.buffer.v3.Buffer.
type HTTPBuffer struct{ MaxBytes uint32 }

// GRPCStats is envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.
type GRPCStats struct {
	AllMethods      bool
	Methods         map[string][]string // service -> methods; nil: none named
	UpstreamStats   bool
	EmitFilterState bool
	ReplaceDots     bool
}

// IstioALPN is istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig: what
// to offer upstream, by the protocol of the upstream request.
type IstioALPN struct {
	Override map[IstioALPNProtocol][]string
}

// IstioALPNProtocol is FilterConfig.Protocol.
type IstioALPNProtocol int

const (
	IstioHTTP10 IstioALPNProtocol = iota
	IstioHTTP11
	IstioHTTP2
)

// HeaderMutation is
// envoy.extensions.filters.http.header_mutation.v3.HeaderMutation and, as an
// override, HeaderMutationPerRoute.
type HeaderMutation struct {
	Request, Response, ResponseTrailers, RequestTrailers []HeaderMutate
	MostSpecificWins                                     bool
}

// HeaderMutate is envoy.config.common.mutation_rules.v3.HeaderMutation: a name
// to remove, what to append, or names to remove by matcher.
type HeaderMutate struct {
	Remove        string
	Append        *HeaderValueOption
	RemoveOnMatch *certs.StringMatcher
}

// Compressor is envoy.extensions.filters.http.compressor.v3.Compressor.
type Compressor struct {
	Library             string   // gzip, brotli, zstd
	Level               int      // the library's; gzip: 0 is its default
	ContentTypes        []string // default as Envoy's
	MinLength           uint32   // default 30
	OnETag              bool     // disable_on_etag_header is false
	RemoveAccept        bool     // remove_accept_encoding_header
	Request             bool     // request_direction_config is enabled; with the limits of responses
	ResponsePPM         uint32
	UncompressibleCodes []uint32
	ChooseFirst         bool
	StatPrefix          string
}

// CompressorOverride is CompressorPerRoute.
type CompressorOverride struct {
	Disabled     bool
	RemoveAccept *bool
}

// JWTAuthn is envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication.
type JWTAuthn struct {
	Providers        map[string]*JWTProvider
	Rules            []JWTRule
	Requirements     map[string]*JWTRequirement
	BypassCORS       bool
	StripFailure     bool
	FilterStateName  string // filter_state_rules.name; "" none
	FilterStateRules map[string]*JWTRequirement
	StatPrefix       string
}

// JWTOverride is PerRouteConfig: Disabled, or the name of a requirement.
type JWTOverride struct {
	Disabled    bool
	Requirement string
}

// JWTRule is RequirementRule. A nil Requires asks for nothing.
type JWTRule struct {
	Match    RouteMatch
	Requires *JWTRequirement
}

// JWTRequirement is JwtRequirement: one field is set.
type JWTRequirement struct {
	Provider             string
	Audiences            []string // provider_and_audiences
	Any, All             []*JWTRequirement
	AllowMissing         bool
	AllowMissingOrFailed bool
}

// JWTProvider is JwtProvider.
type JWTProvider struct {
	Issuer                  string
	Audiences               []string
	Subjects                *certs.StringMatcher
	MaxLifetime             time.Duration
	RequireExpiration       bool
	LocalJWKS               []byte // JSON; nil if remote
	Remote                  *RemoteJWKS
	Forward                 bool
	FromHeaders             []JWTHeader
	FromParams, FromCookies []string
	ForwardPayloadHeader    string
	PadPayloadHeader        bool
	PayloadInMetadata       string
	HeaderInMetadata        string
	FailedStatusInMetadata  string
	ClockSkew               time.Duration // default 60 s
	ClaimToHeaders          [][2]string   // header, claim (a.b.c)
	NormalizeSpaces         []string      // normalize_payload_in_metadata.space_delimited_claims
	ClearRouteCache         bool
}

// JWTHeader is where a token is: after Prefix in Name.
type JWTHeader struct{ Name, Prefix string }

// RemoteJWKS is RemoteJwks.
type RemoteJWKS struct {
	URI, Cluster            string
	Timeout                 time.Duration
	CacheTime               time.Duration // default 10 min
	AsyncFetch              bool
	FastListener            bool
	FailedRefetch           time.Duration
	Retries                 uint32
	BackoffBase, BackoffMax time.Duration
}

// ExtAuthz is envoy.extensions.filters.http.ext_authz.v3.ExtAuthz: GRPC or
// HTTP is set.
type ExtAuthz struct {
	GRPC              *GRPCService
	HTTP              *ExtAuthzHTTP
	FailOpen          bool // failure_mode_allow
	FailOpenHeader    bool // failure_mode_allow_header_add
	WithBody          *ExtAuthzBody
	ClearRouteCache   bool
	StatusOnError     int // default 403
	ValidateMutations bool
	MetadataContext   []string
	EnabledPPM        *uint32
	// EnabledMetadata is filter_enabled_metadata; nil: every request is checked.
	EnabledMetadata       *MetadataMatcher
	DenyAtDisable         bool
	IncludePeerCert       bool
	IncludeTLSSession     bool
	StatPrefix            string
	BootstrapLabelsKey    string
	AllowedHeaders        []certs.StringMatcher
	AllowedSet            bool
	DisallowedHeaders     []certs.StringMatcher
	EmitStats             bool
	DecoderHeaderMutation *HeaderMutationRules
}

// ExtAuthzOverride is ExtAuthzPerRoute.
type ExtAuthzOverride struct {
	Disabled   bool
	Extensions map[string]string // check_settings.context_extensions
	NoBody     bool
	WithBody   *ExtAuthzBody
}

// ExtAuthzBody is BufferSettings.
type ExtAuthzBody struct {
	MaxBytes              uint32
	AllowPartial, AsBytes bool
}

// ExtAuthzHTTP is HttpService.
type ExtAuthzHTTP struct {
	URI, Cluster            string
	Timeout                 time.Duration
	PathPrefix              string
	RequestAdd              [][2]string // authorization_request.headers_to_add; values are formats
	UpstreamHeaders         []certs.StringMatcher
	UpstreamHeadersToAppend []certs.StringMatcher
	ClientHeaders           []certs.StringMatcher
	ClientHeadersOnSuccess  []certs.StringMatcher
	DynamicMetadataHeaders  []certs.StringMatcher
}

// GRPCService is envoy.config.core.v3.GrpcService: to a cluster, or
// google_grpc's target.
type GRPCService struct {
	Cluster, Authority string
	Target             string
	Timeout            time.Duration // default 200 ms
	Metadata           [][2]string   // initial_metadata; values are formats
}

// HeaderMutationRules is
// envoy.config.common.mutation_rules.v3.HeaderMutationRules.
type HeaderMutationRules struct {
	AllowAllRouting, AllowEnvoy, DisallowSystem, DisallowAll, DisallowIsError bool
	Allow, Disallow                                                           *certs.StringMatcher
}

// IstioStats is Istio's stats filter, for HTTP and for TCP
// (stats.PluginConfig).
type IstioStats struct {
	Reporter                  IstioReporter
	DisableHostHeaderFallback bool
	// ReportDuration is how often an open connection, or a call of gRPC, is
	// counted; 0: at its end.
	ReportDuration time.Duration
	Metrics        []IstioMetric
	Definitions    []IstioDefinition
	// Rotation is how often metrics that are not used are looked for; 0: never.
	// They are forgotten if they are not used for GracefulDeletion after.
	Rotation, GracefulDeletion time.Duration
}

// IstioReporter is who reports.
type IstioReporter int

const (
	// IstioSource is the client's proxy, and what has no direction.
	IstioSource IstioReporter = iota
	// IstioDestination is the proxy of an inbound listener.
	IstioDestination
	// IstioWaypoint is a gateway in front of several workloads
	// (SERVER_GATEWAY).
	IstioWaypoint
)

// IstioMetric is MetricConfig: what is changed of a metric.
type IstioMetric struct {
	Name       string // without "istio_"; "" is all
	Dimensions map[string]string
	Remove     []string
	Drop       bool
}

// IstioDefinition is MetricDefinition: a metric that Istio does not have.
type IstioDefinition struct {
	Name  string // without "istio_"
	Value string // an expression for a number
	Kind  IstioMetricKind
}

// IstioMetricKind is MetricType.
type IstioMetricKind int

const (
	IstioCounter IstioMetricKind = iota
	IstioGauge
	IstioHistogram
)

// IstioHTTPExchange is io.istio.http.peer_metadata.Config.
type IstioHTTPExchange struct {
	DownstreamDiscovery, UpstreamDiscovery     []IstioExchangeMethod
	DownstreamPropagation, UpstreamPropagation []IstioExchangeMethod
	AdditionalLabels                           []string
}

// IstioExchangeMethod is DiscoveryMethod or PropagationMethod.
type IstioExchangeMethod struct {
	Name         string // istio_headers, baggage, workload_discovery, upstream_filter_state
	SkipExternal bool   // istio_headers: skip_external_clusters
}

// SetFilterState is envoy.extensions.filters.http.set_filter_state.v3.
type SetFilterState struct {
	OnRequest []FilterStateValue
}

// FilterStateValue is FilterStateValue.
type FilterStateValue struct {
	Key, FactoryKey, Format string
	Shared                  int // 0 NONE, 1 ONCE, 2 TRANSITIVE
	ReadOnly, SkipIfEmpty   bool
	OmitEmpty               bool // format_string.omit_empty_values
}
