package buffer_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/buffer"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

func start(t *testing.T, reg *stats.Registry, limit uint32, overrides ...*config.FilterOverride) *filtertest.Stream {
	t.Helper()
	f, err := buffer.New(&config.HTTPFilter{Config: &config.HTTPBuffer{MaxBytes: limit}}, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t)
	s.Limit = 4 // the connection's
	s.Overriding = overrides
	return s.Start(f)
}

func TestARequestGoesOnWhole(t *testing.T) {
	for name, end := range map[string]func(s *filtertest.Stream){
		"with its last data": func(s *filtertest.Stream) { s.RequestData("67890", true) },
		"with an empty end":  func(s *filtertest.Stream) { s.RequestData("67890", false); s.RequestData("", true) },
		"with its trailers":  func(s *filtertest.Stream) { s.RequestData("67890", false); s.RequestTrailers("a", "b") },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, stats.New(), 10)
			s.RequestHead(filtertest.Request("POST", "/"), false)
			s.RequestData("12345", false)
			if s.Up.Head != nil {
				t.Fatal("the head has passed before the body was whole")
			}
			end(s)
			if s.Up.Head == nil || string(s.Up.Body) != "1234567890" || !s.Up.End {
				t.Fatalf("passed %+v, want all", s.Up)
			}
			if got := s.Up.Head.Value("content-length"); got != "10" {
				t.Errorf("content-length %q, want 10", got)
			}
		})
	}
}

func TestAContentLengthThatIsThereStays(t *testing.T) {
	s := start(t, stats.New(), 10)
	s.RequestHead(filtertest.Request("POST", "/", "content-length", "007"), false)
	s.RequestData("1234567", true)
	if got := s.Up.Head.Value("content-length"); got != "007" {
		t.Errorf("content-length %q, want 007", got)
	}
}

func TestABodyAboveTheLimitIsRefused(t *testing.T) {
	reg := stats.New()
	s := start(t, reg, 5)
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("12345", false)
	if s.Replied != nil {
		t.Fatal("refused at the limit")
	}
	s.RequestData("6", false)
	want := &filter.Reply{Status: 413, Body: "Payload Too Large", Details: "request_payload_too_large"}
	if diff := cmp.Diff(want, s.Replied); diff != "" || s.Up.Head != nil {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"downstream_rq_too_large": 1}, filtertest.Counters(t, reg, "http.test.")); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestWhatHasNoBodyIsNotHeld(t *testing.T) {
	s := start(t, stats.New(), 5)
	s.RequestHead(filtertest.Request("GET", "/"), true)
	if s.Up.Head == nil || s.Up.Head.Fields.Has("content-length") {
		t.Errorf("passed %+v, want the head as it was", s.Up)
	}
	for _, h := range [][]string{{"GET", "upgrade", "websocket"}, {"CONNECT", "x", "y"}} {
		s := start(t, stats.New(), 5)
		s.RequestHead(filtertest.Request(h[0], "/", h[1], h[2]), false)
		s.RequestData("1234567", false)
		if s.Up.Head == nil || string(s.Up.Body) != "1234567" {
			t.Errorf("%s passed %+v, want all at once", h[0], s.Up)
		}
	}
}

func TestARouteHasItsOwnLimit(t *testing.T) {
	s := start(t, stats.New(), 5, &config.FilterOverride{Config: &config.HTTPBuffer{MaxBytes: 7}})
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("1234567", true)
	if string(s.Up.Body) != "1234567" {
		t.Errorf("passed %+v, replied %+v; want all", s.Up, s.Replied)
	}
	s = start(t, stats.New(), 5, &config.FilterOverride{Config: 1})
	s.RequestHead(filtertest.Request("POST", "/"), false)
	if s.Replied == nil || s.Replied.Status != 500 {
		t.Errorf("a broken route got %+v, want 500", s.Replied)
	}
}
