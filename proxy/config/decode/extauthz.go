package decode

import (
	"cmp"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"outrider/certs"
	"outrider/proxy/config"
)

const (
	// defaultAuthzTimeout is of a check whose service names none (Envoy's
	// documentation of ext_authz).
	defaultAuthzTimeout = 200 * time.Millisecond
	forbidden           = 403 // HTTP status where ext_authz names none
)

func (d *decoder) extAuthz(c *authzv3.ExtAuthz, place at) *config.ExtAuthz {
	out := &config.ExtAuthz{
		FailOpen:           c.GetFailureModeAllow(),
		FailOpenHeader:     c.GetFailureModeAllowHeaderAdd(),
		ClearRouteCache:    c.GetClearRouteCache(),
		StatusOnError:      cmp.Or(int(c.GetStatusOnError().GetCode()), forbidden),
		ValidateMutations:  c.GetValidateMutations(),
		MetadataContext:    c.GetMetadataContextNamespaces(),
		DenyAtDisable:      c.GetDenyAtDisable() != nil && d.feature(c.GetDenyAtDisable()),
		IncludePeerCert:    c.GetIncludePeerCertificate(),
		IncludeTLSSession:  c.GetIncludeTlsSession(),
		StatPrefix:         c.GetStatPrefix(),
		BootstrapLabelsKey: c.GetBootstrapMetadataLabelsKey(),
		AllowedSet:         c.GetAllowedHeaders() != nil,
		AllowedHeaders:     d.stringList(c.GetAllowedHeaders(), place.in("allowed_headers")),
		DisallowedHeaders:  d.stringList(c.GetDisallowedHeaders(), place.in("disallowed_headers")),
		EmitStats:          c.GetEmitFilterStateStats(),
		WithBody:           authzBody(c.GetWithRequestBody()),
	}
	if f := c.GetFilterEnabled(); f != nil {
		out.EnabledPPM = d.fraction(f)
	}
	if m := c.GetFilterEnabledMetadata(); m != nil {
		out.EnabledMetadata = d.metadataMatcher(m, place.in("filter_enabled_metadata"))
	}
	if v := c.GetEnableDynamicMetadataIngestion(); v != nil && !v.GetValue() {
		place.in("enable_dynamic_metadata_ingestion").bad("false is not supported by outrider")
	}
	if r := c.GetDecoderHeaderMutationRules(); r != nil {
		out.DecoderHeaderMutation = mutationRules(r, place.in("decoder_header_mutation_rules"))
	}
	switch v := c.GetServices().(type) {
	case *authzv3.ExtAuthz_GrpcService:
		out.GRPC = d.grpcService(v.GrpcService, place.in("grpc_service"))
		if version := c.GetTransportApiVersion(); version == corev3.ApiVersion_V2 {
			place.in("transport_api_version").bad("V2 is not supported: it must be V3")
		}
	case *authzv3.ExtAuthz_HttpService:
		out.HTTP = d.authzHTTP(v.HttpService, out, place.in("http_service"))
	default:
		place.bad("one of grpc_service, http_service must be set")
	}
	return out
}

func authzBody(b *authzv3.BufferSettings) *config.ExtAuthzBody {
	if b == nil {
		return nil
	}
	return &config.ExtAuthzBody{MaxBytes: b.GetMaxRequestBytes(), AllowPartial: b.GetAllowPartialMessage(), AsBytes: b.GetPackAsBytes()}
}

func (d *decoder) stringList(l *matcherv3.ListStringMatcher, place at) []certs.StringMatcher {
	return d.stringMatchers(l.GetPatterns(), "patterns", place)
}

// grpcService is a service in a cluster.
func (d *decoder) grpcService(s *corev3.GrpcService, place at) *config.GRPCService {
	out := &config.GRPCService{Timeout: duration(s.GetTimeout(), defaultAuthzTimeout, place.in("timeout"))}
	for i, h := range s.GetInitialMetadata() {
		in := place.item("initial_metadata", i)
		one := header(h, in)
		d.format(one[1], in.in("value"))
		out.Metadata = append(out.Metadata, one)
	}
	e := s.GetEnvoyGrpc()
	if e == nil {
		place.bad("must have envoy_grpc: no other target is supported by outrider")
		return out
	}
	out.Cluster, out.Authority = e.GetClusterName(), e.GetAuthority()
	d.refer(toCluster, out.Cluster, place.in("envoy_grpc").in("cluster_name"))
	return out
}

func (d *decoder) authzHTTP(s *authzv3.HttpService, filter *config.ExtAuthz, place at) *config.ExtAuthzHTTP {
	in := place.in("server_uri")
	out := &config.ExtAuthzHTTP{
		URI:        s.GetServerUri().GetUri(),
		Cluster:    s.GetServerUri().GetCluster(),
		Timeout:    duration(s.GetServerUri().GetTimeout(), defaultAuthzTimeout, in.in("timeout")),
		PathPrefix: s.GetPathPrefix(),
	}
	if s.GetServerUri() == nil {
		in.bad("must be set")
	}
	d.refer(toCluster, out.Cluster, in.in("cluster"))
	if out.PathPrefix != "" && !strings.HasPrefix(out.PathPrefix, "/") {
		place.in("path_prefix").bad("%q does not begin with /", shorten(out.PathPrefix))
	}
	request, in := s.GetAuthorizationRequest(), place.in("authorization_request")
	if old := request.GetAllowedHeaders(); old != nil {
		if filter.AllowedSet {
			in.in("allowed_headers").bad("cannot be set together with allowed_headers of the filter")
		}
		filter.AllowedSet, filter.AllowedHeaders = true, d.stringList(old, in.in("allowed_headers"))
	}
	for i, h := range request.GetHeadersToAdd() {
		place := in.item("headers_to_add", i)
		one := header(h, place)
		if !changeable(one[0]) {
			place.in("key").bad("%q: pseudo-headers and host may not be changed here", shorten(h.GetKey()))
		}
		d.format(one[1], place.in("value"))
		out.RequestAdd = append(out.RequestAdd, one)
	}
	answer, in := s.GetAuthorizationResponse(), place.in("authorization_response")
	out.UpstreamHeaders = d.stringList(answer.GetAllowedUpstreamHeaders(), in.in("allowed_upstream_headers"))
	out.UpstreamHeadersToAppend = d.stringList(answer.GetAllowedUpstreamHeadersToAppend(), in.in("allowed_upstream_headers_to_append"))
	out.ClientHeaders = d.stringList(answer.GetAllowedClientHeaders(), in.in("allowed_client_headers"))
	out.ClientHeadersOnSuccess = d.stringList(answer.GetAllowedClientHeadersOnSuccess(), in.in("allowed_client_headers_on_success"))
	out.DynamicMetadataHeaders = d.stringList(answer.GetDynamicMetadataFromHeaders(), in.in("dynamic_metadata_from_headers"))
	return out
}

func mutationRules(r *mutationv3.HeaderMutationRules, place at) *config.HeaderMutationRules {
	expression := func(m *matcherv3.RegexMatcher, place at) *certs.StringMatcher {
		if m == nil {
			return nil
		}
		return &certs.StringMatcher{Kind: certs.MatchRegex, Pattern: m.GetRegex(), Regex: regex(m.GetRegex(), place.in("regex"))}
	}
	return &config.HeaderMutationRules{
		AllowAllRouting: r.GetAllowAllRouting().GetValue(),
		AllowEnvoy:      r.GetAllowEnvoy().GetValue(),
		DisallowSystem:  r.GetDisallowSystem().GetValue(),
		DisallowAll:     r.GetDisallowAll().GetValue(),
		DisallowIsError: r.GetDisallowIsError().GetValue(),
		Allow:           expression(r.GetAllowExpression(), place.in("allow_expression")),
		Disallow:        expression(r.GetDisallowExpression(), place.in("disallow_expression")),
	}
}

func (d *decoder) extAuthzOverride(c *authzv3.ExtAuthzPerRoute, place at) *config.ExtAuthzOverride {
	s := c.GetCheckSettings()
	out := &config.ExtAuthzOverride{
		Disabled:   c.GetDisabled(),
		Extensions: s.GetContextExtensions(),
		NoBody:     s.GetDisableRequestBodyBuffering(),
		WithBody:   authzBody(s.GetWithRequestBody()),
	}
	if out.NoBody && out.WithBody != nil {
		place.in("check_settings").in("with_request_body").bad("cannot be set together with disable_request_body_buffering")
	}
	return out
}
