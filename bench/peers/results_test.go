package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// found is a run of three rounds with a gap of each kind.
func found() *results {
	r := &results{Date: "2026-01-02", Rounds: 3, Seconds: 1, Machine: machine{CPU: "a <CPU>", Cores: 2, Memory: 4, Kernel: "6.1.0", Go: "go1.26"}}
	for _, name := range []string{"outrider", "envoy", "nginx", "floor", "direct"} {
		r.Peers = append(r.Peers, peerResult{Name: name})
	}
	add := func(row, peer, metric string, all ...float64) {
		for i, v := range all {
			r.Samples = append(r.Samples, sample{row, peer, i, values{metric: v, "resumed": 0}})
		}
	}
	add("new/terminate/full", "outrider", "conns_per_cpu_s", 2400, 3000, 2000)
	add("new/terminate/full", "envoy", "conns_per_cpu_s", 3000, 3100, 2900)
	add("new/terminate/full", "floor", "conns_per_cpu_s", 12345)
	add("new/terminate/resumed", "outrider", "conns_per_cpu_s", 4000)
	add("new/terminate/resumed", "envoy", "conns_per_cpu_s", 5000)
	add("bulk/two-hops/down/8", "outrider", "cpu_s_per_gb", 1)
	add("bulk/two-hops/down/8", "envoy", "cpu_s_per_gb", 1.5)
	r.Samples = append(r.Samples, sample{"idle/two-hops", "outrider", 0, values{"kib_per_conn_10000": 20, "conns_10000": 9900}})
	r.Gaps = []gap{
		{"new/terminate/full", "nginx", "missing: it is not installed"},
		{"new/terminate/full", "direct", "it ended: exit status 1"},
		{"bulk/two-hops/down/8", "nginx", "missing: it is not installed"},
	}
	return r
}

func TestSpreadIsTheMedianAndTheRange(t *testing.T) {
	r := found()
	for _, c := range []struct {
		row, peer string
		want      spread
	}{
		{"new/terminate/full", "outrider", spread{2400, 2000, 3000}},
		{"new/terminate/full", "floor", spread{12345, 12345, 12345}},
	} {
		if got, ok := r.of(c.row, c.peer, "conns_per_cpu_s"); !ok || got != c.want {
			t.Errorf("%s of %s: %v, %t, want %v", c.row, c.peer, got, ok, c.want)
		}
	}
	if got, ok := r.of("new/terminate/full", "nginx", "conns_per_cpu_s"); ok {
		t.Errorf("a peer that is missing has the figure %v", got)
	}
}

func TestAgainstIsAboveOneWhereOutriderIsAhead(t *testing.T) {
	r := found()
	for _, c := range []struct {
		row, metric string
		times       float64
	}{
		{"new/terminate/full", "conns_per_cpu_s", 0.8},
		{"bulk/two-hops/down/8", "cpu_s_per_gb", 1.5}, // less is better
	} {
		w, m := find(c.row, c.metric)
		if times, best, ok := r.against(w, m, contenders); !ok || math.Abs(times-c.times) > 1e-9 || best != "envoy" {
			t.Errorf("%s: %v times %q, %t, want %v times envoy", c.row, times, best, ok, c.times)
		}
	}
	w, m := find("new/terminate/resumed", "conns_per_cpu_s")
	if times, best, ok := r.against(w, m, contenders); ok {
		t.Errorf("it is held against %s (%v), which does not resume", best, times)
	}
}

func TestTablesSayWhatIsMissing(t *testing.T) {
	text := markdown(found())
	for _, want := range []string{
		"| 2,400 (2,000–3,000) | 3,000 (2,900–3,100) | missing | 12,345 | failed | 0.80 (envoy) |",
		"5,000, does not resume",
		"- nginx: missing: it is not installed\n",
		"- `new/terminate/full`: it ended: exit status 1\n",
		"- at 10,000: in truth 9,900,",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}

func TestABusyMachineIsSaid(t *testing.T) {
	r := found()
	r.Samples[0].Values["other_busy"] = 3
	if text := markdown(r); strings.Contains(text, "not quiet") {
		t.Errorf("3%% is too much:\n%s", text)
	}
	r.Samples[0].Values["other_busy"] = 60
	if text := markdown(r); !strings.Contains(text, "**The machine was not quiet**: other work took 60% of a core") {
		t.Errorf("60%% of a core is not said:\n%s", text)
	}
}

func TestRenderLeavesWhatIsAroundItsPart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(path, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := render(found(), dir); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "before\n"+beginMark) || !strings.HasSuffix(got, endMark+"\nafter\n") || strings.Contains(got, "old") {
		t.Errorf("the page is now\n%s", got)
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := render(found(), dir); err == nil {
		t.Error("a page without the marks is overwritten")
	}
}

func TestPictureIsWellFormedAndShowsWhatWasMeasured(t *testing.T) {
	text := string(picture(found()))
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	if n := strings.Count(text, "<g "); n != 4 {
		t.Errorf("there are %d diagrams, want 4: three rows of new and bulk, one of idle", n)
	}
}

func TestPicturesAndTablesNameRowsThatThereAre(t *testing.T) {
	for _, p := range allPanels {
		if w, _ := find(p.row, p.metric); w.id == "" {
			t.Errorf("a diagram is of %s of row %q, which there is not", p.metric, p.row)
		}
	}
	seen := map[string]bool{}
	for _, w := range allRows() {
		group, _, _ := strings.Cut(w.id, "/")
		in := false
		for _, g := range groups {
			in = in || g.id == group
		}
		if !in || seen[w.id] {
			t.Errorf("row %q is in no table, or there twice", w.id)
		}
		seen[w.id] = true
	}
}

func TestProxiesHaveACoreOfTheirOwnWhereThereAreTwo(t *testing.T) {
	var all unix.CPUSet
	all.Set(3)
	if c := splitCores(all); !c.shared || !c.load.IsSet(3) || !c.proxy.IsSet(3) {
		t.Errorf("of one core: %+v", c)
	}
	all.Set(5)
	all.Set(6)
	c := splitCores(all)
	if c.shared || c.proxy.Count() != 1 || !c.proxy.IsSet(3) || c.load.Count() != 2 || c.load.IsSet(3) {
		t.Errorf("of three cores: proxies %v, load %v", c.proxy, c.load)
	}
}
