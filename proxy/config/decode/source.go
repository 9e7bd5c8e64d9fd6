package decode

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"outrider/certs"
)

// defaultFetchTimeout is ConfigSource.initial_fetch_timeout's default
// (config_source.proto).
const defaultFetchTimeout = 15 * time.Second

// source is where dynamic resources come from. what names the resources in
// references to the cluster that serves them.
func (d *decoder) source(s *corev3.ConfigSource, place at) *certs.Source {
	d.sourced = true
	out := &certs.Source{InitialFetchTimeout: duration(s.GetInitialFetchTimeout(), defaultFetchTimeout, place.in("initial_fetch_timeout"))}
	if v := s.GetResourceApiVersion(); v == corev3.ApiVersion_V2 {
		place.in("resource_api_version").bad("V2 is not supported: it must be V3")
	}
	switch v := s.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Path:
		out.Path = v.Path
		d.sourceFile(v.Path, place.in("path"))
	case *corev3.ConfigSource_PathConfigSource:
		out.Path = v.PathConfigSource.GetPath()
		out.WatchedDirectory = v.PathConfigSource.GetWatchedDirectory().GetPath()
		d.sourceFile(out.Path, place.in("path_config_source").in("path"))
	case *corev3.ConfigSource_ApiConfigSource:
		d.grpcSource(v.ApiConfigSource, out, place.in("api_config_source"))
	case *corev3.ConfigSource_Ads:
		out.ADS = true
		d.refer(toADS, "ads", place.in("ads"))
	}
	return out
}

// sourceFile reports a file that is not there: Envoy demands it at load.
func (d *decoder) sourceFile(path string, place at) {
	if path == "" {
		place.bad("is empty")
		return
	}
	if _, err := d.opts.ReadFile(path); err != nil {
		place.bad("%v", err)
	}
}

func (d *decoder) grpcSource(s *corev3.ApiConfigSource, out *certs.Source, place at) {
	switch s.GetApiType() {
	case corev3.ApiConfigSource_GRPC:
	case corev3.ApiConfigSource_DELTA_GRPC:
		out.Delta = true
	default:
		place.in("api_type").bad("%s is not supported by outrider: use GRPC or DELTA_GRPC", s.GetApiType())
	}
	if v := s.GetTransportApiVersion(); v != corev3.ApiVersion_V3 {
		place.in("transport_api_version").bad("%s is not supported: it must be V3", v)
	}
	services := s.GetGrpcServices()
	if len(services) != 1 {
		place.in("grpc_services").bad("has %d services: it must have one", len(services))
		return
	}
	in := place.item("grpc_services", 0)
	if len(services[0].GetInitialMetadata()) > 0 { // timeout is for calls: a stream of configuration has none
		in.in("initial_metadata").bad("is not supported by outrider for configuration")
	}
	envoy := services[0].GetEnvoyGrpc()
	if envoy.GetAuthority() != "" {
		in.in("envoy_grpc").in("authority").bad("is not supported by outrider for configuration")
	}
	if envoy == nil {
		in.bad("must have envoy_grpc: no other target is supported by outrider")
		return
	}
	out.Cluster = envoy.GetClusterName()
	out.SetNodeOnFirstMessageOnly = s.GetSetNodeOnFirstMessageOnly()
	out.Rate = rateLimit(s.GetRateLimitSettings())
	d.refer(toServingCluster, out.Cluster, in.in("envoy_grpc").in("cluster_name"))
}

// Defaults and bounds of RateLimitSettings (config_source.proto).
const (
	defaultRequestTokens   = 100
	defaultRequestFillRate = 10
	minRequestFillRate     = 1.0 / (365 * 24 * 60 * 60)
)

func rateLimit(s *corev3.RateLimitSettings) *certs.RateLimit {
	if s == nil {
		return nil
	}
	out := &certs.RateLimit{Tokens: u32(s.GetMaxTokens(), defaultRequestTokens), PerSecond: defaultRequestFillRate}
	if s.GetFillRate() != nil {
		out.PerSecond = max(s.GetFillRate().GetValue(), minRequestFillRate)
	}
	return out
}

// data is the content of a DataSource, and its file name if it is one. A nil
// or empty DataSource is reported. false means that there is nothing.
func (d *decoder) data(s *corev3.DataSource, place at) (content []byte, path string, ok bool) {
	content, path, ok = d.read(s, place)
	if d.sum != nil {
		fmt.Fprintf(d.sum, "%d ", len(content))
		d.sum.Write(content)
	}
	return content, path, ok
}

func (d *decoder) read(s *corev3.DataSource, place at) (content []byte, path string, ok bool) {
	switch v := s.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		content, err := d.opts.ReadFile(v.Filename)
		if err != nil {
			place.in("filename").bad("%v", err)
			return nil, "", false
		}
		return content, v.Filename, true
	case *corev3.DataSource_InlineBytes:
		return v.InlineBytes, "", true
	case *corev3.DataSource_InlineString:
		return []byte(v.InlineString), "", true
	case *corev3.DataSource_EnvironmentVariable:
		value, set := d.opts.Getenv(v.EnvironmentVariable)
		if !set {
			place.in("environment_variable").bad("%q is not set", v.EnvironmentVariable)
		}
		return []byte(value), "", set
	}
	place.bad("one of filename, inline_bytes, inline_string, environment_variable must be set")
	return nil, "", false
}

// inlinePath is what /certs shows for what came from no file.
const inlinePath = "<inline>"

func pathOrInline(path string) string {
	if path == "" {
		return inlinePath
	}
	return path
}

// contentOf is where a mistake in the content of a DataSource is reported.
func contentOf(s *corev3.DataSource, place at) at {
	switch s.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		return place.in("filename")
	case *corev3.DataSource_InlineBytes:
		return place.in("inline_bytes")
	case *corev3.DataSource_InlineString:
		return place.in("inline_string")
	case *corev3.DataSource_EnvironmentVariable:
		return place.in("environment_variable")
	}
	return place
}
