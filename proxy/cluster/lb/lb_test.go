package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

func seeded() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func counts(p Picker, n, hosts int, hash func() uint64) []int {
	got := make([]int, hosts)
	for range n {
		got[p.Pick(Input{Hash: hash()})]++
	}
	return got
}

func TestStrideIsExactOverAWholeRound(t *testing.T) {
	for _, test := range []struct {
		name    string
		weights []float64
		picks   int
		want    []int
	}{
		{"equal", []float64{1, 1, 1}, 300, []int{100, 100, 100}},
		{"three to one", []float64{3, 1}, 4000, []int{3000, 1000}},
		{"zero gets nothing", []float64{1, 0, 1}, 100, []int{50, 0, 50}},
		{"all zero are alike", []float64{0, 0}, 100, []int{50, 50}},
		{"fractions", []float64{0.5, 0.25, 0.25}, 4000, []int{2000, 1000, 1000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := counts(NewStride(test.weights, 7), test.picks, len(test.weights), seeded())
			for i, want := range test.want {
				if d := got[i] - want; d < -2 || d > 2 {
					t.Errorf("host %d chosen %d times, want %d", i, got[i], want)
				}
			}
		})
	}
}

func TestStrideInterleaves(t *testing.T) {
	s := NewStride([]float64{2, 1, 1}, 0)
	longest, run, last := 0, 0, -1
	for range 1000 {
		i := s.Pick(Input{})
		if i == last {
			run++
		} else {
			run, last = 1, i
		}
		longest = max(longest, run)
	}
	if longest > 2 {
		t.Errorf("the same host %d times in a row, want 2 at most", longest)
	}
}

func TestPeekAdvancesNothing(t *testing.T) {
	for name, p := range map[string]Picker{
		"stride": NewStride([]float64{5, 1, 1}, 3),
		"least":  NewLeast([]float64{5, 1, 1}, LeastConfig{Active: func(int) uint64 { return 0 }, Rand: seeded()}),
	} {
		for range 50 {
			a, b := p.Pick(Input{Peek: true}), p.Pick(Input{Peek: true})
			if got := p.Pick(Input{}); got != a || a != b {
				t.Fatalf("%s: peeked %d and %d, picked %d", name, a, b, got)
			}
		}
	}
}

func TestEmptyPickersHaveNobody(t *testing.T) {
	for name, p := range map[string]Picker{
		"stride": NewStride(nil, 1), "random": NewRandom(0, seeded()), "ring": NewRing(nil, RingConfig{Min: 1024, Max: 1 << 20}),
		"maglev": NewMaglev(nil, 0), "least": NewLeast(nil, LeastConfig{Rand: seeded()}),
		"bounded": &Bounded{Inner: NewMaglev(nil, 0), Factor: 100},
	} {
		if got := p.Pick(Input{}); got != -1 {
			t.Errorf("%s picked %d of nobody, want -1", name, got)
		}
	}
}

func TestLeastPrefersTheIdleHost(t *testing.T) {
	active := []uint64{10, 0, 10, 10}
	p := NewLeast([]float64{1, 1, 1, 1}, LeastConfig{Choices: 2, Active: func(i int) uint64 { return active[i] }, Rand: seeded()})
	got := counts(p, 10000, 4, seeded())
	// The idle host wins whenever it is among the two: 1 - (3/4)^2.
	if want := 10000 * 7 / 16; math.Abs(float64(got[1]-want)) > 300 {
		t.Errorf("idle host chosen %d times in 10000, want about %d", got[1], want)
	}
}

func TestWeightedLeastLowersABusyHost(t *testing.T) {
	active := []uint64{0, 0}
	p := NewLeast([]float64{2, 1}, LeastConfig{Bias: 1, Active: func(i int) uint64 { return active[i] }, Rand: seeded()})
	if got := counts(p, 3000, 2, seeded()); math.Abs(float64(got[0]-2000)) > 5 {
		t.Errorf("idle hosts of weights 2 and 1 chosen %v, want 2000 and 1000", got)
	}
	active[0] = 3 // its weight is 2/4 now
	if got := counts(p, 3000, 2, seeded()); math.Abs(float64(got[0]-1000)) > 10 {
		t.Errorf("a busy host chosen %v, want 1000 and 2000", got)
	}
}

func nodes(n int, weight func(int) float64) []Node {
	out := make([]Node, n)
	sum := 0.0
	for i := range out {
		out[i] = Node{Key: fmt.Sprintf("10.0.0.%d:80", i), Weight: weight(i)}
		sum += out[i].Weight
	}
	for i := range out {
		out[i].Weight /= sum
	}
	return out
}

func alike(int) float64 { return 1 }

func hashers(list []Node) map[string]Picker {
	// Each host has as many points whatever the number of hosts.
	size := RingConfig{Min: uint64(len(list)) * 4096, Max: 1 << 23}
	murmur := size
	murmur.Murmur = true
	return map[string]Picker{
		"ring": NewRing(list, size), "murmur ring": NewRing(list, murmur), "maglev": NewMaglev(list, 0),
	}
}

func TestConsistentHashesFollowWeights(t *testing.T) {
	list := nodes(4, func(i int) float64 { return float64(i + 1) })
	for name, p := range hashers(list) {
		got := counts(p, 100000, 4, seeded())
		for i, n := range got {
			if want := list[i].Weight * 100000; math.Abs(float64(n)-want) > 0.1*want+500 {
				t.Errorf("%s: host %d chosen %d times in 100000, want about %.0f", name, i, n, want)
			}
		}
	}
}

func TestLosingAHostMovesFewOthers(t *testing.T) {
	all := nodes(10, alike)
	fewer := nodes(9, alike) // without the last
	before, after := hashers(all), hashers(fewer)
	for name := range before {
		hash, moved, kept := seeded(), 0, 0
		for range 20000 {
			h := Input{Hash: hash()}
			if i := before[name].Pick(h); i != 9 {
				kept++
				if after[name].Pick(h) != i {
					moved++
				}
			}
		}
		limit := 0 // a ring moves nobody else
		if name == "maglev" {
			limit = kept * 5 / 100 // Maglev paper, section 5.3: a few percent
		}
		if moved > limit {
			t.Errorf("%s: %d of %d connections of the other hosts moved, want %d at most", name, moved, kept, limit)
		}
	}
}

func TestMaglevIgnoresTheOrderOfHosts(t *testing.T) {
	list := nodes(7, alike)
	turned := append(append([]Node(nil), list[3:]...), list[:3]...)
	a, b := NewMaglev(list, 0), NewMaglev(turned, 0)
	hash := seeded()
	for range 5000 {
		in := Input{Hash: hash()}
		if x, y := list[a.Pick(in)].Key, turned[b.Pick(in)].Key; x != y {
			t.Fatalf("hash %d goes to %s or %s, by the order of hosts", in.Hash, x, y)
		}
	}
}

func TestRetriesReachOtherHosts(t *testing.T) {
	for name, p := range hashers(nodes(5, alike)) {
		other := 0
		hash := seeded()
		for range 100 {
			h := hash()
			first := p.Pick(Input{Hash: h})
			for attempt := range uint32(3) {
				if p.Pick(Input{Hash: h, Attempt: attempt + 1}) != first {
					other++
					break
				}
			}
		}
		if other < 90 {
			t.Errorf("%s: a retry reached another host for %d of 100 hashes, want 90", name, other)
		}
	}
}

func TestRingSizeFollowsEnvoysArithmetic(t *testing.T) {
	for _, test := range []struct {
		name     string
		hosts    int
		min, max uint64
		want     int
	}{
		{"rounded up to whole points for each host", 3, 1024, 1 << 23, 1026},
		{"capped", 4, 1024, 6, 6},
	} {
		r := NewRing(nodes(test.hosts, alike), RingConfig{Min: test.min, Max: test.max})
		if r.Size() != test.want {
			t.Errorf("%s: %d points, want %d", test.name, r.Size(), test.want)
		}
	}
}

// The expected values are those of std::hash<std::string> in libstdc++.
func TestMurmurHashIsLibstdcxxs(t *testing.T) {
	for in, want := range map[string]uint64{
		"hello": 2762169579135187400, "foo": 9631199822919835226, "bar": 11474628671133349555,
		"foo\nbar": 16306510975912980159, "lyft": 12847078931730529320,
	} {
		if got := murmur2([]byte(in), murmurSeed); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestBoundedLoadPassesOverABusyHost(t *testing.T) {
	list := nodes(4, alike)
	active := make([]uint64, 4)
	overall := func() uint64 {
		sum := uint64(0)
		for _, a := range active {
			sum += a
		}
		return sum
	}
	b := &Bounded{Inner: NewMaglev(list, 0), Nodes: list, Factor: 125, Active: func(i int) uint64 { return active[i] }, Overall: overall}
	for range 1000 {
		active[b.Pick(Input{Hash: 42})]++
	}
	for i, n := range active {
		if n > 1000/4*125/100+2 {
			t.Errorf("host %d has %d of 1000 connections of one hash, want at most 125%% of a fair share", i, n)
		}
	}
}

func TestDistribute(t *testing.T) {
	full := func(hosts, healthy, degraded int) Level {
		return Level{Hosts: hosts, Healthy: healthy, Degraded: degraded}
	}
	for _, test := range []struct {
		name   string
		levels []Level
		panic  float64
		want   Load
	}{
		{"all healthy", []Level{full(4, 4, 0), full(4, 4, 0)}, 50, Load{[]uint32{100, 0}, []uint32{0, 0}, []bool{false, false}}},
		{"72 percent healthy carry all", []Level{full(100, 72, 0), full(4, 4, 0)}, 50, Load{[]uint32{100, 0}, []uint32{0, 0}, []bool{false, false}}},
		{"half healthy carry 70", []Level{full(4, 2, 0), full(4, 4, 0)}, 50, Load{[]uint32{70, 30}, []uint32{0, 0}, []bool{false, false}}},
		{"the next priority takes all", []Level{full(4, 0, 0), full(4, 4, 0)}, 50, Load{[]uint32{0, 100}, []uint32{0, 0}, []bool{false, false}}},
		{"rounding goes to the first", []Level{full(10, 3, 0), full(10, 3, 0)}, 0, Load{[]uint32{50, 50}, []uint32{0, 0}, []bool{false, false}}},
		{"degraded hosts help out", []Level{full(4, 2, 2)}, 50, Load{[]uint32{70}, []uint32{30}, []bool{false}}},
		{"nobody healthy is panic", []Level{full(4, 0, 0)}, 50, Load{[]uint32{100}, []uint32{0}, []bool{true}}},
		{"panic can be off", []Level{full(4, 0, 0)}, 0, Load{[]uint32{100}, []uint32{0}, []bool{false}}},
		{"panic by hosts", []Level{full(3, 0, 0), full(1, 0, 0)}, 50, Load{[]uint32{75, 25}, []uint32{0, 0}, []bool{true, true}}},
		{"one priority in panic", []Level{full(100, 20, 0), full(100, 50, 0)}, 50, Load{[]uint32{29, 71}, []uint32{0, 0}, []bool{true, false}}},
		{"excluded hosts do not count", []Level{{Hosts: 4, Healthy: 2, Excluded: 2}}, 50, Load{[]uint32{100}, []uint32{0}, []bool{false}}},
		{"weighted", []Level{{Hosts: 2, Healthy: 1, Weighted: true, HealthyWeight: 9, TotalWeight: 10}, full(1, 1, 0)}, 50,
			Load{[]uint32{100, 0}, []uint32{0, 0}, []bool{false, false}}},
		{"no hosts", []Level{full(0, 0, 0)}, 50, Load{[]uint32{100}, []uint32{0}, []bool{true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Distribute(test.levels, 140, test.panic); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestChooseFollowsTheLoad(t *testing.T) {
	load := Load{Healthy: []uint32{70, 10}, Degraded: []uint32{0, 20}}
	got := map[string]int{}
	for h := range uint64(100) {
		p, d := load.Choose(h)
		got[fmt.Sprint(p, d)]++
	}
	want := map[string]int{"0 false": 70, "1 false": 10, "1 true": 20}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func BenchmarkPick(b *testing.B) {
	list := nodes(100, alike)
	weights := make([]float64, 100)
	for i := range weights {
		weights[i] = float64(1 + i%5)
	}
	for name, p := range map[string]Picker{
		"round robin": NewStride(make([]float64, 100), 1), "weighted": NewStride(weights, 1),
		"maglev": NewMaglev(list, 0), "ring": NewRing(list, RingConfig{Min: 1024, Max: 1 << 23}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				p.Pick(Input{Hash: uint64(i) * 0x9e3779b97f4a7c15})
			}
		})
	}
}
