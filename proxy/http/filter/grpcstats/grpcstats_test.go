package grpcstats

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

// frame is a gRPC message of n bytes.
func frame(n int) string {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(n))
	return string(b) + strings.Repeat("x", n)
}

// call runs a call: each part is a data frame. Its status is in the trailers.
func call(t *testing.T, reg *stats.Registry, cfg config.GRPCStats, path, contentType, status string, request, response []string) *filtertest.Stream {
	t.Helper()
	d := filtertest.Deps(reg)
	d.Clusters = filtertest.StaticClusters(t, reg, map[string]int{"c": 1, "alt": 0}, func(c *config.Cluster) {
		if c.Name == "alt" {
			c.AltStatName = "other"
		}
	})
	f, err := New(&config.HTTPFilter{Config: &cfg}, d)
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t)
	s.ClusterIs = "c"
	if strings.HasPrefix(path, "/alt") {
		s.ClusterIs = "alt"
	}
	s.Start(f).RequestHead(filtertest.Request("POST", path, "content-type", contentType), false)
	for _, p := range request {
		s.RequestData(p, false)
	}
	s.RequestData("", true)
	http := s.Info().HTTP
	http.LastUpstreamTx = time.Unix(100, 0)
	http.LastUpstreamRx = http.LastUpstreamTx.Add(30 * time.Millisecond)
	if response == nil {
		s.ResponseHead(filtertest.Response(200, "content-type", contentType, "grpc-status", status), true)
		return s
	}
	s.ResponseHead(filtertest.Response(200, "content-type", contentType), false)
	for _, p := range response {
		s.ResponseData(p, false)
	}
	s.ResponseTrailers("grpc-status", status)
	return s
}

func TestCallsAndMessagesAreCounted(t *testing.T) {
	two, one := []string{frame(3) + frame(0)}, []string{frame(2)}
	all := config.GRPCStats{AllMethods: true}
	for name, c := range map[string]struct {
		cfg               config.GRPCStats
		path, kind        string
		status            string
		request, response []string
		want              map[string]uint64 // under cluster.
	}{
		"a call": {
			cfg: all, path: "/S/M", kind: "application/grpc", status: "0", request: two, response: one,
			want: map[string]uint64{"c.grpc.S.M.0": 1, "c.grpc.S.M.success": 1, "c.grpc.S.M.total": 1, "c.grpc.S.M.request_message_count": 2, "c.grpc.S.M.response_message_count": 1},
		},
		"a failure without body": {
			cfg: all, path: "/a.b.S/M?x", kind: "application/grpc+proto", status: "14", request: one,
			want: map[string]uint64{"c.grpc.a.b.S.M.14": 1, "c.grpc.a.b.S.M.failure": 1, "c.grpc.a.b.S.M.total": 1, "c.grpc.a.b.S.M.request_message_count": 1},
		},
		"dots replaced": {
			cfg: config.GRPCStats{AllMethods: true, ReplaceDots: true}, path: "/a.b.S/M.x", kind: "application/grpc", status: "0",
			want: map[string]uint64{"c.grpc.a_b_S.M.x.0": 1, "c.grpc.a_b_S.M.x.success": 1, "c.grpc.a_b_S.M.x.total": 1},
		},
		"a method that is not listed": {
			cfg: config.GRPCStats{Methods: map[string][]string{"S": {"N"}}}, path: "/S/M", kind: "application/grpc", status: "0", request: one,
			want: map[string]uint64{"c.grpc.0": 1, "c.grpc.success": 1, "c.grpc.total": 1, "c.grpc.request_message_count": 1},
		},
		"a method that is listed": {
			cfg: config.GRPCStats{Methods: map[string][]string{"S": {"N", "M"}}}, path: "/S/M", kind: "application/grpc", status: "0",
			want: map[string]uint64{"c.grpc.S.M.0": 1, "c.grpc.S.M.success": 1, "c.grpc.S.M.total": 1},
		},
		"a status that is no number": {
			cfg: all, path: "/S/M", kind: "application/grpc", status: "x.y", response: one,
			want: map[string]uint64{"c.grpc.S.M.2": 1, "c.grpc.S.M.failure": 1, "c.grpc.S.M.total": 1, "c.grpc.S.M.response_message_count": 1},
		},
		"a cluster with another name for stats": {
			cfg: config.GRPCStats{}, path: "/alt/M", kind: "application/grpc", status: "0",
			want: map[string]uint64{"other.grpc.0": 1, "other.grpc.success": 1, "other.grpc.total": 1},
		},
		"what is not gRPC":           {cfg: all, path: "/S/M", kind: "application/json", status: "0", request: two, response: one},
		"what begins like it":        {cfg: all, path: "/S/M", kind: "application/grpcx", status: "0", request: two},
		"a path that is no method":   {cfg: all, path: "/S/M/x", kind: "application/grpc", status: "0", request: two},
		"a path without method":      {cfg: all, path: "/S", kind: "application/grpc", status: "0", request: two},
		"a path without first slash": {cfg: all, path: "S/M", kind: "application/grpc", status: "0", request: two},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			s := call(t, reg, c.cfg, c.path, c.kind, c.status, c.request, c.response)
			if string(s.Up.Body) != strings.Join(c.request, "") || string(s.Down.Body) != strings.Join(c.response, "") {
				t.Error("the bodies were changed")
			}
			got := filtertest.Counters(t, reg, "cluster.")
			for k := range got {
				if !strings.Contains(k, ".grpc.") {
					delete(got, k)
				}
			}
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheBodyOfWhatIsNoAnswerOfGRPCIsNotCounted(t *testing.T) {
	for _, head := range [][]string{{"content-type", "text/html"}, {"content-type", "application/grpc"}} {
		reg := stats.New()
		d := filtertest.Deps(reg)
		d.Clusters = filtertest.StaticClusters(t, reg, map[string]int{"c": 1}, nil)
		f, err := New(&config.HTTPFilter{Config: &config.GRPCStats{}}, d)
		if err != nil {
			t.Fatal(err)
		}
		s := filtertest.New(t)
		s.ClusterIs = "c"
		s.Start(f).RequestHead(filtertest.Request("POST", "/S/M", "content-type", "application/grpc"), true)
		status := 200
		if head[1] == "application/grpc" {
			status = 503
		}
		s.ResponseHead(filtertest.Response(status, head...), false)
		s.ResponseData(frame(1), true)
		if n := filtertest.Counters(t, reg, "cluster.c.grpc.")["response_message_count"]; n != 0 {
			t.Errorf("%d messages in a response %d of %s, want none", n, status, head[1])
		}
	}
}

func TestTheUpstreamsTimeIsRecordedIfAsked(t *testing.T) {
	for asked, want := range map[bool]bool{true: true, false: false} {
		reg := stats.New()
		call(t, reg, config.GRPCStats{UpstreamStats: asked}, "/S/M", "application/grpc", "0", nil, []string{frame(1)})
		var text strings.Builder
		if err := reg.Prometheus(&text, stats.Query{UsedOnly: true}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(text.String(), `envoy_cluster_grpc_upstream_rq_time_sum{envoy_cluster_name="c"} 30`); got != want {
			t.Errorf("asked %v: recorded %v", asked, got)
		}
	}
}

func TestCountsGoIntoTheFilterStateIfAsked(t *testing.T) {
	s := call(t, stats.New(), config.GRPCStats{EmitFilterState: true}, "/S/M", "application/grpc", "0", []string{frame(1) + frame(1)}, []string{frame(1)})
	if got := s.Info().FilterState["envoy.filters.http.grpc_stats"]; got != "2,1" {
		t.Errorf("the filter state is %q, want 2,1", got)
	}
	if s := call(t, stats.New(), config.GRPCStats{}, "/S/M", "application/grpc", "0", []string{frame(1)}, nil); s.Info().FilterState != nil {
		t.Errorf("the filter state is %v, want none", s.Info().FilterState)
	}
}

func FuzzFramesCountTheSameInAnyPieces(f *testing.F) {
	f.Add([]byte(frame(3)+frame(0)+frame(300)), 4)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0}, 1)
	f.Add([]byte(frame(70000)), 7)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		var whole, pieces frames
		n := whole.take(body)
		if size = max(size, 1); len(body)/size > 1<<12 {
			size = 1 + len(body)>>12
		}
		var sum uint64
		for rest := body; len(rest) > 0; {
			k := min(size, len(rest))
			sum += pieces.take(rest[:k])
			rest = rest[k:]
		}
		if sum != n || pieces != whole {
			t.Errorf("in pieces of %d: %d messages and %+v, whole: %d and %+v", size, sum, pieces, n, whole)
		}
		if want := walk(body); n != want {
			t.Errorf("%d messages, want %d", n, want)
		}
	})
}

// walk counts messages the plain way.
func walk(p []byte) (n uint64) {
	for len(p) > 0 {
		if n++; len(p) < prefix {
			return n
		}
		length := uint64(binary.BigEndian.Uint32(p[1:]))
		p = p[prefix:]
		p = p[min(length, uint64(len(p))):]
	}
	return n
}
