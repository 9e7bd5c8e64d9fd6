package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestLineGoesThroughItsPoints(t *testing.T) {
	l, err := fitLine([]float64{0, 10, 100}, []float64{5, 25, 205})
	if err != nil || math.Abs(l.base-5) > 1e-9 || math.Abs(l.slope-2) > 1e-9 || l.worst > 1e-9 {
		t.Errorf("%+v, %v, want 5 + 2x", l, err)
	}
	l, err = fitLine([]float64{0, 1, 2}, []float64{10, 11, 10})
	if err != nil || l.worst < 0.3 || l.worst > 1 {
		t.Errorf("%+v, %v: the middle one is off", l, err)
	}
	l, err = fitLine([]float64{0, 1000, 10000}, []float64{10, 60, 400}) // the small size counts too
	if err != nil || l.base < 9.5 || l.base > 10.5 {
		t.Errorf("%+v, %v: it begins at 10", l, err)
	}
	for _, xs := range [][]float64{nil, {1}, {3, 3}} {
		if _, err := fitLine(xs, make([]float64, len(xs))); err == nil {
			t.Errorf("a line through %v", xs)
		}
	}
}

func TestAFleetCostsWhatItsSidecarsDo(t *testing.T) {
	c := costs{base: 10, conn: 1024, chain: 2048, cluster: 512, idle: 0.25, request: 0.001, full: 0.01, resumed: 0.002, gb: 1}
	f := fleet{
		sidecars: 4, chains: 3, clusters: 5, connections: spreadOut{7, 0}, requests: spreadOut{100, 0}, fresh: spreadOut{10, 0},
		resumed: 0.75, bodies: 1e6, renewals: 100, renewal: 1, seed: 1,
	}
	b := f.run(c)
	memory := 10 + 7.0 + 2*2 + 4*0.5                            // MiB
	cpu := 0.25 + 100*(0.001+0.001) + 10*(0.0015+0.0025) + 0.01 // cores
	for name, got := range map[string][2]float64{
		"GiB": {b.gib, 4 * memory / 1024}, "cores": {b.cores, 4 * cpu}, "idle cores": {b.idleCores, 1},
		"median MiB": {b.medianMiB, memory}, "p99 MiB": {b.p99MiB, memory},
		"median": {b.medianMilli, 1e3 * cpu}, "p99": {b.p99Milli, 1e3 * cpu},
	} {
		if math.Abs(got[0]-got[1]) > 1e-9 {
			t.Errorf("%s: %g, want %g", name, got[0], got[1])
		}
	}
}

func TestTheSameSeedDrawsTheSameFleet(t *testing.T) {
	c := costs{base: 1, conn: 100, request: 1e-4}
	f := profile
	f.sidecars = 2000
	first, again := f.run(c), f.run(c)
	if first != again {
		t.Errorf("%+v, then %+v", first, again)
	}
	f.seed++
	if other := f.run(c); other == first {
		t.Error("another seed draws the same")
	}
	if first.p99MiB <= first.medianMiB || first.p99Milli <= first.medianMilli {
		t.Errorf("no sidecar has more than the others: %+v", first)
	}
}

// grownResults are two runs from which everything of the page follows: memory is
// 10 MiB and 0.01 for each of what there is with outrider, twice that with Envoy.
func grownResults() (scale, performance *results) {
	scale, performance = found(), found()
	scale.Samples, scale.Gaps, scale.Peers = nil, nil, scale.Peers[:2]
	performance.Samples = nil
	for i, peer := range []string{"outrider", "envoy"} {
		times := float64(i + 1)
		for _, w := range scaleRows() {
			var size float64
			fmt.Sscanf(w.id[strings.LastIndex(w.id, "/")+1:], "%g", &size)
			scale.Samples = append(scale.Samples, sample{w.id, peer, 0, values{
				"size": size, "pss_mib": times * (10 + size/100), "ready_ms": size, "idle_ms_per_s": times,
				"conns_per_cpu_s": 1000, "per_cpu_s": 1000, "cpu_s_per_gb": 1,
			}})
		}
		for _, w := range allRows() {
			performance.Samples = append(performance.Samples, sample{w.id, peer, 0, values{
				"conns_per_cpu_s": 1000 / times, "per_cpu_s": 500 / times, "cpu_s_per_gb": times,
			}})
		}
	}
	return scale, performance
}

func TestCostsAreThoseOfTheMeasures(t *testing.T) {
	scale, performance := grownResults()
	for i, peer := range []string{"outrider", "envoy"} {
		c, err := costsOf(scale, performance, peer)
		if err != nil {
			t.Fatal(err)
		}
		times := float64(i + 1)
		for name, got := range map[string][2]float64{
			"base": {c.base, 10}, "connection": {c.conn, 10.24}, "chain": {c.chain, 10.24}, "cluster": {c.cluster, 10.24},
			"idle": {c.idle, 1e-3}, "request": {c.request, 1e-3}, "full": {c.full, 1e-3}, "resumed": {c.resumed, 1e-3}, "GB": {c.gb, 1},
		} {
			if math.Abs(got[0]-times*got[1]) > 1e-9 {
				t.Errorf("%s of %s: %g, want %g", name, peer, got[0], times*got[1])
			}
		}
	}
	if _, err := costsOf(scale, performance, "nginx"); err == nil {
		t.Error("a peer that was not measured has costs")
	}
}

func TestScalePageIsWrittenBetweenItsMarks(t *testing.T) {
	scale, performance := grownResults()
	dir := t.TempDir()
	if err := renderScale(scale, dir); err == nil {
		t.Error("without performance.json there is a page")
	}
	page := filepath.Join(dir, "scale.md")
	if err := errors.Join(performance.save(filepath.Join(dir, "performance.json")),
		os.WriteFile(page, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600), renderScale(scale, dir)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n", "\nafter\n", "## Open connections", "| 3,000 filter chains `chains/3000` | memory MiB | 40.0 | 80.0 |",
		"| an idle mTLS connection, KiB | 10.2 | 20.5 | 2.00 |", "| requests a second | 1,000 | 500 | 2.00 |",
		"**the profile**: cores in all", "one sidecar in a hundred has\n  409 and more",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in the page:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") || strings.Contains(string(text), "%!") {
		t.Errorf("the page is\n%s", text)
	}
	picture, err := os.Open(filepath.Join(dir, "scale.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer picture.Close()
	for d := xml.NewDecoder(picture); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigurationHasAsMuchAsIsAsked(t *testing.T) {
	ids, err := newIdentities(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []extent{{}, {chains: 1}, {chains: 5}, {clusters: 7}} {
		h := hop{ids: ids, dir: t.TempDir(), listen: "127.0.0.1:1", target: "127.0.0.1:2", in: true, out: true, extent: e}
		path, err := envoyConfig(h)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Static struct {
				Listeners []struct {
					Filters []any `yaml:"listener_filters"`
					Chains  []struct {
						Match struct {
							Names []string `yaml:"server_names"`
						} `yaml:"filter_chain_match"`
						Socket any `yaml:"transport_socket"`
					} `yaml:"filter_chains"`
				}
				Clusters []struct {
					Name   string
					Socket any `yaml:"transport_socket"`
				}
			} `yaml:"static_resources"`
		}
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%+v: %v\n%s", e, err, text)
		}
		l, clusters := doc.Static.Listeners[0], doc.Static.Clusters
		if len(l.Chains) != max(1, e.chains) || len(clusters) != max(1, e.clusters) {
			t.Fatalf("%+v: %d chains, %d clusters", e, len(l.Chains), len(clusters))
		}
		last := l.Chains[len(l.Chains)-1]
		if many := e.chains > 1; many != (len(last.Match.Names) == 1 && last.Match.Names[0] == serverName) || many != (len(l.Filters) == 1) {
			t.Errorf("%+v: the last chain matches %q, listener filters %v", e, last.Match.Names, l.Filters)
		}
		if clusters[len(clusters)-1].Name != "next" || last.Socket == nil || clusters[0].Socket == nil {
			t.Errorf("%+v: the last cluster is %q, TLS %v %v", e, clusters[len(clusters)-1].Name, last.Socket, clusters[0].Socket)
		}
	}
}
