package compressor_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/compressor"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

// recorded is what Envoy 1.40 did with a response.
type recorded struct {
	Claim                string
	Accept               *string
	Response             [][2]string
	Status               int
	Method               string
	Encoding, Vary, ETag string
	Length               bool
	Counters             string
}

// different are where we differ on purpose, and why.
func different() map[string]string {
	return map[string]string{"vary is there in another case": "names of header fields have no case: it is not added again"}
}

func base() *config.Compressor {
	return &config.Compressor{
		Library: "gzip", ContentTypes: []string{"text/plain", "text/html"}, MinLength: 30, OnETag: true,
		ResponsePPM: 1_000_000, UncompressibleCodes: []uint32{206}, StatPrefix: "lib",
	}
}

func made(t testing.TB, c *config.Compressor) (filter.Factory, *stats.Registry) {
	t.Helper()
	r := stats.New()
	f, err := compressor.New(&config.HTTPFilter{Config: c}, filtertest.Deps(r))
	if err != nil {
		t.Fatal(err)
	}
	return f, r
}

// counted are the names of the counters that are not 0, but those of bytes.
func counted(r *stats.Registry) string {
	var out []string
	scope := filtertest.Scope(r).Scope("compressor").Scope("lib").Scope("gzip")
	for _, name := range []string{"header_compressor_used", "header_compressor_overshadowed", "header_identity", "header_wildcard", "header_not_valid", "no_accept_header", "not_compressed_etag"} {
		if scope.Counter(name).Value() > 0 {
			out = append(out, name)
		}
	}
	for _, d := range []string{"request", "response"} {
		for _, name := range []string{"compressed", "not_compressed", "content_length_too_small"} {
			if scope.Scope(d).Counter(name).Value() > 0 {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestResponsesAreCompressedWhereEnvoyDoesIt(t *testing.T) {
	text, err := os.ReadFile("testdata/envoy.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if different()[c.Claim] != "" {
			continue
		}
		f, r := made(t, base())
		s := filtertest.New(t).Start(f)
		req := filtertest.Request(c.Method, "/")
		if c.Accept != nil {
			req.Fields.Add("accept-encoding", *c.Accept)
		}
		s.RequestHead(req, true)
		length, typ := "40", "text/plain"
		resp := filtertest.Response(c.Status)
		for _, h := range c.Response {
			switch h[0] {
			case "content-length":
				length = h[1]
			case "content-type":
				typ = h[1]
			default:
				resp.Fields.Add(h[0], h[1])
			}
		}
		if typ != "" {
			resp.Fields.Add("content-type", typ)
		}
		empty := c.Status == 204 || c.Method == "HEAD"
		if c.Status != 204 {
			resp.Fields.Add("content-length", length)
		}
		s.ResponseHead(resp, empty)
		if !empty {
			s.ResponseData(strings.Repeat("x", 40), true)
		}
		got := c
		h := s.Down.Head.Fields
		got.Encoding, got.Vary, got.ETag, got.Length = h.Value("content-encoding"), h.Value("vary"), h.Value("etag"), h.Has("content-length")
		got.Counters = counted(r)
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s (-Envoy +got)\n%s", c.Claim, diff)
		}
		if got.Encoding == "gzip" && gunzip(t, s.Down.Body) != strings.Repeat("x", 40) {
			t.Errorf("%s: the body is another", c.Claim)
		}
	}
}

func gunzip(t *testing.T, p []byte) string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}

func unzstd(t *testing.T, p []byte) string {
	t.Helper()
	r, err := zstd.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}

func TestEachPartOfABodyGoesOnAtOnceAndTrailersEndIt(t *testing.T) {
	for name, read := range map[string]func(*testing.T, []byte) string{"gzip": gunzip, "zstd": unzstd} {
		cfg := base()
		cfg.Library = name
		f, _ := made(t, cfg)
		for range 2 { // the second time with the first one's writer
			s := filtertest.New(t).Start(f)
			s.RequestHead(filtertest.Request("GET", "/", "accept-encoding", name), true)
			s.ResponseHead(filtertest.Response(200), false)
			sizes := []int{0}
			for range 3 {
				s.ResponseData("some text, some text", false)
				sizes = append(sizes, len(s.Down.Body))
			}
			if !slices.IsSorted(sizes) || sizes[1] == 0 || sizes[2] == sizes[1] {
				t.Errorf("%s: bytes after each part: %v", name, sizes)
			}
			s.ResponseTrailers("x-t", "1")
			if got, want := read(t, s.Down.Body), strings.Repeat("some text, some text", 3); got != want || s.Down.Trailers.Value("x-t") != "1" {
				t.Errorf("%s: got %q and trailers %v", name, got, s.Down.Trailers)
			}
			s.Finish()
		}
	}
}

func TestOfSeveralCompressorsTheClientChooses(t *testing.T) {
	zst := base()
	zst.Library = "zstd"
	firstZstd := base()
	firstZstd.Library, firstZstd.ChooseFirst = "zstd", true
	for claim, c := range map[string]struct {
		accept string
		zstd   *config.Compressor
		want   string
	}{
		"the weight":                   {"gzip;q=0.5, zstd;q=0.6", zst, "zstd"},
		"the first of equals":          {"gzip, zstd", zst, "gzip"},
		"choose_first goes before":     {"gzip, zstd", firstZstd, "zstd"},
		"but not before a weight":      {"gzip, zstd;q=0.9", firstZstd, "gzip"},
		"anything":                     {"*", zst, "gzip"},
		"anything but":                 {"*, gzip;q=0", zst, "zstd"},
		"one that is not there at all": {"br", zst, ""},
	} {
		gz, _ := made(t, base())
		zs, _ := made(t, c.zstd)
		a, b := filtertest.New(t), filtertest.New(t)
		b.StreamInfo = a.StreamInfo // two filters of one request
		a.Start(gz)
		b.Start(zs)
		a.RequestHead(filtertest.Request("GET", "/", "accept-encoding", c.accept), true)
		b.RequestHead(a.Up.Head, true)
		b.ResponseHead(filtertest.Response(200), false)
		a.ResponseHead(b.Down.Head, false)
		if got := a.Down.Head.Fields.Value("content-encoding"); got != c.want {
			t.Errorf("%s: got %q, want %q", claim, got, c.want)
		}
	}
}

func TestRequestsAreCompressedIfThatIsWanted(t *testing.T) {
	cfg := base()
	cfg.Request, cfg.RemoveAccept = true, true
	f, r := made(t, cfg)
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("POST", "/", "content-length", "40", "accept-encoding", "gzip"), false)
	s.RequestData(strings.Repeat("x", 40), true)
	if h := s.Up.Head.Fields; h.Value("content-encoding") != "gzip" || h.Has("content-length") || h.Has("accept-encoding") || gunzip(t, s.Up.Body) != strings.Repeat("x", 40) {
		t.Errorf("got %v and %q", h, s.Up.Body)
	}
	scope := filtertest.Scope(r).Scope("compressor").Scope("lib").Scope("gzip").Scope("request")
	if in, out := scope.Counter("total_uncompressed_bytes").Value(), scope.Counter("total_compressed_bytes").Value(); in != 40 || out != uint64(len(s.Up.Body)) {
		t.Errorf("counted %d and %d bytes", in, out)
	}
	s.ResponseHead(filtertest.Response(200), false)
	if got := s.Down.Head.Fields.Value("content-encoding"); got != "gzip" {
		t.Errorf("the response is not compressed although its request accepted it before the field was removed")
	}

	s = filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestTrailers("x-t", "1")
	if s.Replied == nil || s.Replied.Details != "compressor_failed" {
		t.Errorf("a request whose end cannot be written went on: %+v", s.Replied)
	}
}

func TestRoutesMayTurnItOff(t *testing.T) {
	f, _ := made(t, base())
	s := filtertest.New(t)
	s.Overriding = []*config.FilterOverride{{Config: &config.CompressorOverride{Disabled: true}}}
	if s.Start(f).Filter != nil {
		t.Error("there is a filter where the route has turned it off")
	}
	yes := true
	s = filtertest.New(t)
	s.Overriding = []*config.FilterOverride{{Config: &config.CompressorOverride{RemoveAccept: &yes}}}
	s.Start(f).RequestHead(filtertest.Request("GET", "/", "accept-encoding", "gzip"), true)
	if s.Up.Head.Fields.Has("accept-encoding") {
		t.Error("accept-encoding went on")
	}
}

func TestLibrariesThatAreNotThereAreRefusedByName(t *testing.T) {
	for library, level := range map[string]int{"brotli": 3, "lz4": 0, "gzip": 99} {
		c := base()
		c.Library, c.Level, c.Request = library, level, library == "brotli"
		if _, err := compressor.New(&config.HTTPFilter{Config: c}, filtertest.Deps(stats.New())); err == nil || !strings.Contains(err.Error(), library) {
			t.Errorf("%s at level %d: got %v", library, level, err)
		}
	}
}

// A chain as Istio's bootstrap has it: brotli stands before gzip.
func TestACompressorOfBrotliLeavesResponsesToTheOthers(t *testing.T) {
	br := base()
	br.Library, br.Level, br.ChooseFirst = "brotli", 3, true
	first, _ := made(t, br)
	second, _ := made(t, base())
	for accept, want := range map[string]string{"br, gzip;q=0.5": "gzip", "br": "", "gzip": "gzip", "*": "gzip"} {
		a, b := filtertest.New(t), filtertest.New(t)
		b.StreamInfo = a.StreamInfo // two filters of one request
		a.Start(first)
		b.Start(second)
		a.RequestHead(filtertest.Request("GET", "/", "accept-encoding", accept), true)
		b.RequestHead(a.Up.Head, true)
		b.ResponseHead(filtertest.Response(200, "content-type", "text/plain"), false)
		if got := b.Down.Head.Fields.Value("content-encoding"); got != want {
			t.Errorf("accept-encoding %q: content-encoding is %q, want %q", accept, got, want)
		}
		if b.Up.Head.Fields.Value("accept-encoding") != accept {
			t.Errorf("accept-encoding %q did not go on", accept)
		}
	}
	br.RemoveAccept = true
	remover, _ := made(t, br)
	s := filtertest.New(t).Start(remover)
	s.RequestHead(filtertest.Request("GET", "/", "accept-encoding", "br"), true)
	if s.Up.Head.Fields.Has("accept-encoding") {
		t.Error("accept-encoding went on though it is to be removed")
	}
}

// Whatever a client accepts, it gets what it accepts, whole.
func FuzzAccept(f *testing.F) {
	made, _ := made(f, base())
	f.Add("gzip;q=0.5, *;q=0")
	f.Fuzz(func(t *testing.T, accept string) {
		s := filtertest.New(t).Start(made)
		s.RequestHead(filtertest.Request("GET", "/", "accept-encoding", accept), true)
		s.ResponseHead(filtertest.Response(200), false)
		s.ResponseData("text", true)
		body := string(s.Down.Body)
		if s.Down.Head.Fields.Value("content-encoding") == "gzip" {
			if !strings.Contains(accept, "gzip") && !strings.Contains(accept, "*") {
				t.Fatal("compressed for one that does not accept it")
			}
			body = gunzip(t, s.Down.Body)
		}
		if body != "text" {
			t.Fatalf("got %q", body)
		}
	})
}

func BenchmarkResponse(b *testing.B) {
	made, _ := made(b, base())
	part := strings.Repeat("some text of a response ", 200)
	b.SetBytes(int64(len(part)))
	b.ReportAllocs()
	for range b.N {
		s := filtertest.New(b).Start(made)
		s.RequestHead(filtertest.Request("GET", "/", "accept-encoding", "gzip"), true)
		s.ResponseHead(filtertest.Response(200), false)
		s.ResponseData(part, true)
		s.Finish()
	}
}
