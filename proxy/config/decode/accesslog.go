package decode

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	formatcelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/cel/v3"
	formatmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/metadata/v3"
	formatreqv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"

	"outrider/proxy/config"
)

// defaultLogFormat is Envoy's where none is given (its documentation of access
// logging, "Default format string").
const defaultLogFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" " +
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

func (d *decoder) accessLogs(list []*accesslogv3.AccessLog, place at) []*config.AccessLog {
	var out []*config.AccessLog
	for i, l := range list {
		out = append(out, d.accessLog(l, place.item("access_log", i)))
	}
	return out
}

func (d *decoder) accessLog(l *accesslogv3.AccessLog, place at) *config.AccessLog {
	out := &config.AccessLog{Name: l.GetName(), Format: defaultLogFormat}
	if l.GetFilter() != nil {
		out.Filter = d.logFilter(l.GetFilter(), place.in("filter"))
	}
	in := place.in("typed_config")
	switch c := d.open(anyOf(l, in), in).(type) {
	case *filelogv3.FileAccessLog:
		d.fileLog(c, out, in)
	case *streamlogv3.StdoutAccessLog:
		out.Path = "/dev/stdout"
		d.logFormat(c.GetLogFormat(), out, in.in("log_format"))
	case *streamlogv3.StderrAccessLog:
		out.Path = "/dev/stderr"
		d.logFormat(c.GetLogFormat(), out, in.in("log_format"))
	default:
		in.bad("extension %q is not supported by outrider as an access log", l.GetName())
	}
	return out
}

func (d *decoder) fileLog(c *filelogv3.FileAccessLog, out *config.AccessLog, place at) {
	out.Path = c.GetPath()
	switch v := c.GetAccessLogFormat().(type) {
	case *filelogv3.FileAccessLog_Format:
		if v.Format != "" {
			out.Format = v.Format
		}
	case *filelogv3.FileAccessLog_JsonFormat:
		out.Format, out.JSON = "", v.JsonFormat
	case *filelogv3.FileAccessLog_TypedJsonFormat:
		out.Format, out.JSON = "", v.TypedJsonFormat
	case *filelogv3.FileAccessLog_LogFormat:
		d.logFormat(v.LogFormat, out, place.in("log_format"))
	}
}

func (d *decoder) logFormat(f *corev3.SubstitutionFormatString, out *config.AccessLog, place at) {
	for i, one := range f.GetFormatters() {
		in := place.item("formatters", i).in("typed_config")
		switch d.open(anyOf(one, in), in).(type) {
		case *formatmetadatav3.Metadata, *formatcelv3.Cel, *formatreqv3.ReqWithoutQuery: // whose operators are always there
		default:
			in.bad("extension %q is not supported by outrider as a formatter", shorten(one.GetName()))
		}
	}
	out.OmitEmpty = f.GetOmitEmptyValues()
	out.SortJSON = f.GetJsonFormatOptions().GetSortProperties()
	switch v := f.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat:
		out.Format = v.TextFormat
	case *corev3.SubstitutionFormatString_TextFormatSource:
		if content, _, ok := d.data(v.TextFormatSource, place.in("text_format_source")); ok {
			out.Format = string(content)
		}
	case *corev3.SubstitutionFormatString_JsonFormat:
		out.Format, out.JSON = "", v.JsonFormat
	}
}

func (d *decoder) logFilter(f *accesslogv3.AccessLogFilter, place at) *config.AccessLogFilter {
	out := &config.AccessLogFilter{}
	switch v := f.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		out.Status = true
		d.comparison(v.StatusCodeFilter.GetComparison(), out)
	case *accesslogv3.AccessLogFilter_DurationFilter:
		d.comparison(v.DurationFilter.GetComparison(), out)
		limit := time.Duration(out.Value) * time.Millisecond
		out.DurationGE = &limit
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		out.NotHealth = true
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		share := ppm(v.RuntimeFilter.GetPercentSampled())
		share = d.runtimeShare(v.RuntimeFilter.GetRuntimeKey(), v.RuntimeFilter.GetPercentSampled(), share)
		out.RuntimePPM, out.RuntimeUnit = &share, perUnit(v.RuntimeFilter.GetPercentSampled())
		out.Independent = v.RuntimeFilter.GetUseIndependentRandomness()
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		matcher := d.headerMatcher(v.HeaderFilter.GetHeader(), place.in("header_filter").in("header"))
		out.Header = &matcher
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		out.GRPC = &config.GRPCStatusFilter{Exclude: v.GrpcStatusFilter.GetExclude()}
		for _, s := range v.GrpcStatusFilter.GetStatuses() {
			out.GRPC.Statuses = append(out.GRPC.Statuses, uint32(s))
		}
	case *accesslogv3.AccessLogFilter_AndFilter:
		for i, one := range v.AndFilter.GetFilters() {
			out.And = append(out.And, d.logFilter(one, place.in("and_filter").item("filters", i)))
		}
	case *accesslogv3.AccessLogFilter_OrFilter:
		for i, one := range v.OrFilter.GetFilters() {
			out.Or = append(out.Or, d.logFilter(one, place.in("or_filter").item("filters", i)))
		}
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		out.IsFlags, out.Flags = true, v.ResponseFlagFilter.GetFlags()
	case *accesslogv3.AccessLogFilter_LogTypeFilter:
		out.ExcludeTypes = v.LogTypeFilter.GetExclude()
		for _, t := range v.LogTypeFilter.GetTypes() {
			out.LogTypes = append(out.LogTypes, t.String())
		}
	case *accesslogv3.AccessLogFilter_ExtensionFilter:
		in := place.in("extension_filter").in("typed_config")
		if c, ok := d.open(v.ExtensionFilter.GetTypedConfig(), in).(*celfilterv3.ExpressionFilter); ok {
			if out.Expression = c.GetExpression(); out.Expression == "" {
				in.in("expression").bad("is empty")
			}
			break
		}
		in.bad("extension %q is not supported by outrider as a filter of access logs", shorten(v.ExtensionFilter.GetName()))
	default:
		place.bad("has no filter that outrider supports")
	}
	return out
}

func (d *decoder) comparison(c *accesslogv3.ComparisonFilter, out *config.AccessLogFilter) {
	out.Op = c.GetOp().String()
	out.Value = d.runtimeNumber(c.GetValue().GetRuntimeKey(), c.GetValue().GetDefaultValue())
}
