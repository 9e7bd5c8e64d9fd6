// Package compressor is envoy.filters.http.compressor: responses, and requests
// if that is wanted, go on compressed where their receiver can take it.
package compressor

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// offersKey is where the compressors of a request tell each other what they
// have, in the filter state.
const offersKey = "outrider.compressors"

// New makes the filter of a *config.Compressor, of the library gzip or zstd; one
// of brotli compresses nothing.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	c, ok := cfg.Config.(*config.Compressor)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of compressor", cfg.Config)
	}
	if c.Library == "brotli" {
		return newAbsent(c)
	}
	l, err := newLibrary(c.Library, c.Level)
	if err != nil {
		return nil, err
	}
	scope := d.Scope.Scope("compressor")
	if name := strings.Trim(c.StatPrefix, "."); name != "" {
		scope = scope.Scope(name)
	}
	scope = scope.Scope(l.encoding)
	f := &factory{cfg: c, library: l, request: newCounters(scope.Scope("request")), response: newCounters(scope.Scope("response")), accept: map[outcome]*stats.Counter{}}
	for _, o := range []outcome{used, overshadowed, identity, wildcard, notValid, noHeader} {
		f.accept[o] = scope.Counter(string(o))
	}
	f.etag = scope.Counter("not_compressed_etag")
	return f, nil
}

type factory struct {
	cfg               *config.Compressor
	library           *library
	request, response counters
	accept            map[outcome]*stats.Counter
	etag              *stats.Counter
}

// counters are of one direction.
type counters struct{ compressed, not, before, after, small *stats.Counter }

func newCounters(s *stats.Scope) counters {
	return counters{
		compressed: s.Counter("compressed"), not: s.Counter("not_compressed"), before: s.Counter("total_uncompressed_bytes"),
		after: s.Counter("total_compressed_bytes"), small: s.Counter("content_length_too_small"),
	}
}

// New is the filter of a request.
func (f *factory) New(s filter.Stream) filter.Filter {
	c := &compressor{f: f, s: s, removeAccept: f.cfg.RemoveAccept}
	if o := s.Override(); o != nil && o.Config != nil {
		own, ok := o.Config.(*config.CompressorOverride)
		if !ok {
			c.err = fmt.Errorf("a route has %T for compressor", o.Config)
			return c
		}
		if own.Disabled {
			return nil
		}
		if own.RemoveAccept != nil {
			c.removeAccept = *own.RemoveAccept
		}
	}
	return c
}

// Check is filter.Checker.
func (f *factory) Check(o *config.FilterOverride) error { return checkOverride(o) }

func checkOverride(o *config.FilterOverride) error {
	if _, ok := o.Config.(*config.CompressorOverride); !ok && o.Config != nil {
		return fmt.Errorf("%T is not of compressor", o.Config)
	}
	return nil
}

// compressor is the filter of one request.
type compressor struct {
	filter.Pass
	f            *factory
	s            filter.Stream
	err          error
	removeAccept bool
	accept       string
	hasAccept    bool
	up, down     *stream // nil: not compressed, or through
}

// RequestHead keeps what the client accepts, and begins to compress the
// request's body.
func (c *compressor) RequestHead(h *message.Head, end bool) filter.Action {
	if c.err != nil {
		return filter.Misconfigured(c.s, c.err)
	}
	c.accept, c.hasAccept = h.Fields.Joined("accept-encoding")
	mine := c.f.library.encoding
	if c.f.cfg.ChooseFirst {
		mine += "!"
	}
	others := c.s.Info().FilterState[offersKey]
	c.s.Info().SetState(offersKey, strings.TrimPrefix(others+","+mine, ","))
	if c.removeAccept && c.f.cfg.ResponsePPM > 0 {
		h.Fields.Del("accept-encoding")
	}
	if !c.f.cfg.Request || end || !c.f.longEnough(h, c.f.request) || !c.f.fits(h) {
		c.f.request.not.Inc()
		return filter.Continue
	}
	c.f.mark(h)
	c.f.request.compressed.Inc()
	c.up = c.f.library.open()
	return filter.Continue
}

// RequestData compresses a part of the request's body.
func (c *compressor) RequestData(p []byte, end bool) ([]byte, filter.Action) {
	if c.up == nil {
		return p, filter.Continue
	}
	out, err := c.write(c.up, p, end, c.f.request)
	if err != nil {
		return nil, c.broken(err)
	}
	return out, filter.Continue
}

// RequestTrailers ends the body before them.
func (c *compressor) RequestTrailers(*message.Fields) filter.Action {
	if c.up == nil {
		return filter.Continue
	}
	to, ok := c.s.(filter.RequestInjector)
	if !ok {
		return c.broken(fmt.Errorf("a compressed request cannot have trailers here"))
	}
	out, err := c.write(c.up, nil, true, c.f.request)
	if err != nil {
		return c.broken(err)
	}
	to.InjectRequest(out, false)
	return filter.Continue
}

// ResponseHead begins to compress the response's body.
func (c *compressor) ResponseHead(h *message.Head, end bool) filter.Action {
	if c.err != nil {
		return filter.Continue
	}
	// The order of the tests is Envoy's, for they count.
	enabled := c.s.PPM(c.f.cfg.ResponsePPM) && c.f.longEnough(h, c.f.response)
	could := enabled && !h.Fields.Has("upgrade") && c.f.fits(h) && c.f.etagAllows(h) && !slices.Contains(c.f.cfg.UncompressibleCodes, uint32(h.Status))
	switch {
	case !end && enabled && c.accepted(h) && could:
		if etag, there := h.Fields.Get("etag"); there && !weak(etag) {
			h.Fields.Del("etag") // it is of other bytes
		}
		c.f.mark(h)
		c.f.response.compressed.Inc()
		c.down = c.f.library.open()
	default:
		c.f.response.not.Inc()
	}
	if could {
		vary(h)
	}
	return filter.Continue
}

// accepted reports whether ours is the encoding that the client likes best of
// those that the request's compressors have.
func (c *compressor) accepted(h *message.Head) bool {
	if !c.hasAccept {
		c.f.accept[noHeader].Inc()
		return false
	}
	var offers []offer
	for one := range strings.SplitSeq(c.s.Info().FilterState[offersKey], ",") {
		encoding, first := strings.CutSuffix(one, "!")
		if encoding == c.f.library.encoding && !c.f.takesType(h) {
			continue
		}
		offers = append(offers, offer{encoding, first})
	}
	best, how := choose(c.accept, offers)
	if best != "" && best != c.f.library.encoding {
		how = overshadowed
	}
	c.f.accept[how].Inc()
	return best == c.f.library.encoding
}

// ResponseData compresses a part of the response's body.
func (c *compressor) ResponseData(p []byte, end bool) ([]byte, filter.Action) {
	if c.down == nil {
		return p, filter.Continue
	}
	out, err := c.write(c.down, p, end, c.f.response)
	if err != nil {
		return nil, c.broken(err)
	}
	return out, filter.Continue
}

// ResponseTrailers ends the body before them.
func (c *compressor) ResponseTrailers(*message.Fields) filter.Action {
	if c.down == nil {
		return filter.Continue
	}
	out, err := c.write(c.down, nil, true, c.f.response)
	if err != nil {
		return c.broken(err)
	}
	c.s.InjectResponse(out, false)
	return filter.Continue
}

func (c *compressor) write(s *stream, p []byte, end bool, n counters) ([]byte, error) {
	out, err := s.write(p, end)
	n.before.Add(uint64(len(p)))
	n.after.Add(uint64(len(out)))
	return out, err
}

// broken ends a message that cannot be compressed to its end.
func (c *compressor) broken(err error) filter.Action {
	c.s.Log().Warn("a message could not be compressed", "error", err)
	c.s.Reply(filter.Reply{Status: http.StatusInternalServerError, Details: "compressor_failed"})
	return filter.Stop
}

// End gives the writers back.
func (c *compressor) End() {
	for _, s := range []*stream{c.up, c.down} {
		if s != nil {
			s.release()
		}
	}
	c.up, c.down = nil, nil
}

// longEnough takes a message whose length is not known.
func (f *factory) longEnough(h *message.Head, n counters) bool {
	text, there := h.Fields.Get("content-length")
	if !there {
		return true
	}
	length, err := strconv.ParseUint(text, 10, 64)
	if err != nil || length < uint64(f.cfg.MinLength) {
		n.small.Inc()
		return false
	}
	return true
}

// fits reports whether the message's content may be compressed.
func (f *factory) fits(h *message.Head) bool {
	if h.Fields.Has("content-encoding") {
		return false
	}
	if cache, _ := h.Fields.Joined("cache-control"); hasToken(cache, "no-transform") {
		return false
	}
	if te, there := h.Fields.Joined("transfer-encoding"); there {
		for _, coding := range []string{"gzip", "deflate", "br", "zstd", "compress"} {
			if hasToken(te, coding) {
				return false
			}
		}
	}
	return f.takesType(h)
}

// takesType is by the content type, without its parameters.
func (f *factory) takesType(h *message.Head) bool {
	value, there := h.Fields.Get("content-type")
	if !there || len(f.cfg.ContentTypes) == 0 {
		return true
	}
	value, _, _ = strings.Cut(value, ";")
	value = strings.TrimSpace(value)
	return slices.ContainsFunc(f.cfg.ContentTypes, func(t string) bool { return strings.EqualFold(t, value) })
}

// etagAllows counts what an etag keeps from being compressed.
func (f *factory) etagAllows(h *message.Head) bool {
	if f.cfg.OnETag || !h.Fields.Has("etag") {
		return true
	}
	f.etag.Inc()
	return false
}

// mark says in the head that the body is compressed.
func (f *factory) mark(h *message.Head) {
	h.Fields.Del("content-length")
	h.Fields.Set("content-encoding", f.library.encoding)
}

// weak is RFC 9110, section 8.8.3.
func weak(etag string) bool { return strings.HasPrefix(etag, "W/") || strings.HasPrefix(etag, "w/") }

func hasToken(list, token string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(one), token) {
			return true
		}
	}
	return false
}

// vary tells caches that the response is another for other clients.
func vary(h *message.Head) {
	have, there := h.Fields.Joined("vary")
	switch {
	case !there || have == "":
		h.Fields.Set("vary", "Accept-Encoding")
	case !hasToken(have, "accept-encoding"):
		h.Fields.Set("vary", have+", Accept-Encoding")
	}
}
