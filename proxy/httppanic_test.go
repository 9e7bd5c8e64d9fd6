package proxy

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// broken is a filter that panics where the request's field x-panic says.
type broken struct {
	filter.Pass
	s     filter.Stream
	where string
}

func (b *broken) at(where string) {
	if b.where == where {
		var nothing map[string]int
		nothing[where] = 1
	}
}

func (b *broken) RequestHead(h *message.Head, _ bool) filter.Action {
	b.where, _ = h.Fields.Get("x-panic")
	b.at("request")
	switch b.where {
	case "work":
		b.s.Async(func(context.Context) func() { b.at("work"); return nil })
		return filter.StopAll
	case "async":
		b.s.Async(func(context.Context) func() { return func() { b.at("async") } })
		return filter.StopAll
	case "timer":
		b.s.After(time.Millisecond, func() { b.at("timer") })
		return filter.StopAll
	}
	return filter.Continue
}

func (b *broken) RequestData(p []byte, _ bool) ([]byte, filter.Action) {
	b.at("request body")
	return p, filter.Continue
}

func (b *broken) ResponseHead(*message.Head, bool) filter.Action {
	b.at("response")
	return filter.Continue
}

func (b *broken) ResponseData(p []byte, _ bool) ([]byte, filter.Action) {
	b.at("response body")
	return p, filter.Continue
}

func (b *broken) End() { b.at("end") }

// A filter that panics, on whatever goroutine, costs its request and nothing
// else: the process serves on, and nothing is counted as open for ever.
func TestAPanicInAFilterEndsItsRequestAlone(t *testing.T) {
	makers := filter.Makers{}
	makers.Add((*config.HTTPCORS)(nil), func(*config.HTTPFilter, filter.Deps) (filter.Factory, error) {
		return filter.FactoryFunc(func(s filter.Stream) filter.Filter {
			if v, _ := s.Request().Fields.Get("x-panic"); v == "make" {
				panic("no filter can be made")
			}
			return &broken{s: s}
		}), nil
	})
	r := runFilters(t, `{name: broken, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}},`,
		Options{HTTPFilters: makers}, bothProtocols, "")
	panics := 0
	for name, client := range r.clients() {
		for _, upstream := range []string{"h1", "h2"} {
			for _, where := range []string{"make", "request", "request body", "work", "async", "timer", "response", "response body", "end"} {
				err := ask(t, client, r, upstream, where)
				if where != "end" && (err == nil || os.IsTimeout(err)) {
					t.Errorf("%s to %s: a panic in %s: got %v, want a request that was reset", name, upstream, where, err)
				}
				panics++
				if err := ask(t, client, r, upstream, ""); err != nil {
					t.Errorf("%s to %s: after a panic in %s: %v", name, upstream, where, err)
				}
			}
		}
	}
	for gauge, want := range map[string]string{
		"http.in.downstream_rq_active": "0", "cluster.h1.upstream_rq_active": "0", "cluster.h2.upstream_rq_active": "0",
	} {
		deadline := time.Now().Add(patience)
		for r.gauge(gauge) != want && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if got := r.gauge(gauge); got != want {
			t.Errorf("%s is %s", gauge, got)
		}
	}
	if got := r.Server.stats.panics.Value(); got != uint64(panics) {
		t.Errorf("%d panics are counted, want %d", got, panics)
	}
}

// ask makes a request with a body, and reads all of the answer.
func ask(t *testing.T, client *http.Client, r *requestRig, upstream, where string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.Listening("l")[0].String()+"/"+upstream+"/x", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if where != "" {
		req.Header.Set("x-panic", where)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	return err
}
