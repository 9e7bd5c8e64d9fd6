package decode

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	brotliv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	zstdv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/compressor/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"

	"outrider/proxy/config"
)

// Defaults of the compressor filter and its libraries (their protos).
const (
	defaultMinLength     = 30
	defaultBrotliQuality = 3
	defaultZstdLevel     = 3
)

// compressedTypes are the content types that are compressed where none are
// named (compressor.proto, and what Envoy counts as the same).
func compressedTypes() []string {
	return []string{
		"text/html", "text/plain", "text/css", "text/xml", "text/javascript", "text/x-javascript", "text/ecmascript",
		"text/js", "text/jscript", "text/x-js", "application/javascript", "application/x-javascript", "application/ecmascript",
		"application/json", "application/x-json", "application/xml", "application/xhtml+xml", "image/svg+xml",
	}
}

func (d *decoder) compressor(c *compressorv3.Compressor, place at) *config.Compressor {
	response := c.GetResponseDirectionConfig()
	out := &config.Compressor{
		OnETag:              !response.GetDisableOnEtagHeader(),
		RemoveAccept:        response.GetRemoveAcceptEncodingHeader(),
		UncompressibleCodes: response.GetUncompressibleResponseCodes(),
		ChooseFirst:         c.GetChooseFirst(),
	}
	common := response.GetCommonConfig()
	if response == nil { // the fields that were there before it
		out.OnETag, out.RemoveAccept = !c.GetDisableOnEtagHeader(), c.GetRemoveAcceptEncodingHeader()
		common = &compressorv3.Compressor_CommonDirectionConfig{
			Enabled: c.GetRuntimeEnabled(), MinContentLength: c.GetContentLength(), ContentType: c.GetContentType(),
		}
	} else if c.GetContentLength() != nil || len(c.GetContentType()) > 0 || c.GetDisableOnEtagHeader() || c.GetRemoveAcceptEncodingHeader() || c.GetRuntimeEnabled() != nil {
		place.in("response_direction_config").bad("is in place of content_length, content_type, disable_on_etag_header, remove_accept_encoding_header and runtime_enabled")
	}
	out.MinLength, out.ContentTypes = d.compressed(common)
	if d.feature(common.GetEnabled()) {
		out.ResponsePPM = allPPM
	}
	d.compressRequests(c.GetRequestDirectionConfig(), out, place.in("request_direction_config"))
	d.compressorLibrary(c.GetCompressorLibrary(), out, place.in("compressor_library"))
	return out
}

// compressed is what a direction compresses.
func (d *decoder) compressed(c *compressorv3.Compressor_CommonDirectionConfig) (minLength uint32, types []string) {
	types = c.GetContentType()
	if len(types) == 0 {
		types = compressedTypes()
	}
	return u32(c.GetMinContentLength(), defaultMinLength), types
}

// compressRequests takes the limits of responses for requests too.
func (d *decoder) compressRequests(c *compressorv3.Compressor_RequestDirectionConfig, out *config.Compressor, place at) {
	if c == nil {
		return
	}
	out.Request = d.feature(c.GetCommonConfig().GetEnabled())
	minLength, types := d.compressed(c.GetCommonConfig())
	if out.Request && (minLength != out.MinLength || !slices.Equal(types, out.ContentTypes)) {
		place.in("common_config").bad("has another min_content_length or content_type than responses, which is not supported by outrider")
	}
}

// feature is on where nothing is said.
func (d *decoder) feature(f *corev3.RuntimeFeatureFlag) bool {
	switch d.runtime[f.GetRuntimeKey()] {
	case "true":
		return true
	case "false":
		return false
	}
	return truth(f.GetDefaultValue(), true)
}

func (d *decoder) compressorLibrary(e *corev3.TypedExtensionConfig, out *config.Compressor, place at) {
	if e == nil {
		return // reported as a rule of the proto
	}
	in := place.in("typed_config")
	out.StatPrefix = e.GetName()
	switch c := d.open(anyOf(e, in), in).(type) {
	case *gzipv3.Gzip:
		out.Library, out.Level = "gzip", int(c.GetCompressionLevel())
	case *brotliv3.Brotli:
		out.Library, out.Level = "brotli", int(u32(c.GetQuality(), defaultBrotliQuality))
	case *zstdv3.Zstd:
		out.Library, out.Level = "zstd", int(u32(c.GetCompressionLevel(), defaultZstdLevel))
	default:
		in.bad("extension %q is not supported by outrider as a compressor", shorten(e.GetName()))
	}
}

func compressorOverride(c *compressorv3.CompressorPerRoute) *config.CompressorOverride {
	out := &config.CompressorOverride{Disabled: c.GetDisabled()}
	if v := c.GetOverrides().GetResponseDirectionConfig().GetRemoveAcceptEncodingHeader(); v != nil {
		remove := v.GetValue()
		out.RemoveAccept = &remove
	}
	return out
}
