package filtertest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"outrider/proxy/accesslog"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// Request is the head of a request to "host"; pairs are names and values,
// pseudo-headers (":authority") too.
func Request(method, path string, pairs ...string) *message.Head {
	h := message.NewHead()
	h.Method, h.Scheme, h.Authority, h.Path = method, "http", "host", path
	add(h, pairs)
	return h
}

// Response is the head of a response.
func Response(status int, pairs ...string) *message.Head {
	h := message.NewHead()
	h.Status = status
	add(h, pairs)
	return h
}

func add(h *message.Head, pairs []string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if name := pairs[i]; name[0] == ':' {
			h.Set(name, pairs[i+1])
		} else {
			h.Fields.Add(name, pairs[i+1])
		}
	}
}

func fields(t testing.TB, pairs []string) message.Fields {
	t.Helper()
	if len(pairs)%2 != 0 {
		t.Fatalf("%q has a name without a value", pairs)
	}
	var out message.Fields
	for i := 0; i+1 < len(pairs); i += 2 {
		out.Add(pairs[i], pairs[i+1])
	}
	return out
}

// Scope is http.test, where the filters of Deps count.
func Scope(r *stats.Registry) *stats.Scope {
	return r.Scope("http").Tagged("envoy_http_conn_manager_prefix", "test")
}

// Deps is what a filter needs to be made: a registry of its own, no clusters
// but those of Clusters, the real formats of access logs, no upstream, and each
// runtime key at its default.
func Deps(r *stats.Registry) filter.Deps {
	return filter.Deps{
		Stats: r, Scope: Scope(r), Log: slog.New(slog.DiscardHandler),
		Node: &config.Node{ID: "test"}, Clusters: Clusters{}, Format: accesslog.Formatter,
		Upstream:   Upstream{},
		AccessLogs: func(*config.AccessLog) (filter.AccessLogger, error) { return nil, errNone },
		RuntimePPM: func(_ string, ppm uint32) uint32 { return ppm },
	}
}

// Clusters are filter.Deps.Clusters by name.
type Clusters map[string]*cluster.Cluster

// Get is the cluster of that name, nil if there is none.
func (c Clusters) Get(name string) *cluster.Cluster { return c[name] }

// Upstream is filter.Upstream of two functions; without one its calls fail.
type Upstream struct {
	Calls    func(cluster string) http.RoundTripper
	Channels func(s *config.GRPCService) (grpc.ClientConnInterface, error)
}

var errNone = errors.New("the test has none")

// HTTP is Calls.
func (u Upstream) HTTP(cluster string) http.RoundTripper {
	if u.Calls == nil {
		return none{}
	}
	return u.Calls(cluster)
}

// GRPC is Channels.
func (u Upstream) GRPC(s *config.GRPCService) (grpc.ClientConnInterface, error) {
	if u.Channels == nil {
		return nil, errNone
	}
	return u.Channels(s)
}

type none struct{}

func (none) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNone }

// Counters are the counters and gauges of r that are not 0, by what follows
// prefix in their names; nil if there are none.
func Counters(t testing.TB, r *stats.Registry, prefix string) map[string]uint64 {
	t.Helper()
	var text strings.Builder
	if err := r.JSON(&text, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	var all struct {
		Stats []struct {
			Name  string
			Value uint64
		}
	}
	if err := json.Unmarshal([]byte(text.String()), &all); err != nil {
		t.Fatal(err)
	}
	var out map[string]uint64
	for _, one := range all.Stats {
		name, ok := strings.CutPrefix(one.Name, prefix)
		if !ok || one.Name == "" || one.Value == 0 {
			continue
		}
		if out == nil {
			out = map[string]uint64{}
		}
		out[name] = one.Value
	}
	return out
}
