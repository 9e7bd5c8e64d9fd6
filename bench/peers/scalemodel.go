package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// line is y = base + slope * x, fitted by least squares. worst is the largest
// distance of a point from it.
type line struct{ base, slope, worst float64 }

// fitLine fits a line to points of x and y, each weighted by 1/y² so that small
// sizes count as much as large ones: the relative errors are made small.
func fitLine(xs, ys []float64) (line, error) {
	var sw, sx, sy, sxx, sxy float64
	for i, x := range xs {
		w := 1 / (ys[i] * ys[i])
		sw, sx, sy, sxx, sxy = sw+w, sx+w*x, sy+w*ys[i], sxx+w*x*x, sxy+w*x*ys[i]
	}
	d := sw*sxx - sx*sx
	if len(xs) < 2 || d == 0 || math.IsNaN(d) || math.IsInf(d, 0) {
		return line{}, fmt.Errorf("a line needs two sizes: there are %v", xs)
	}
	l := line{slope: (sw*sxy - sx*sy) / d}
	l.base = (sy - l.slope*sx) / sw
	for i, x := range xs {
		l.worst = max(l.worst, math.Abs(l.base+l.slope*x-ys[i]))
	}
	return l, nil
}

// costs are what one proxy takes, from measures.
type costs struct {
	base                    float64 // MiB, with nothing open and one chain and cluster
	conn, chain, cluster    float64 // KiB for each more
	idle                    float64 // CPU-seconds a second while nothing happens
	request, full, resumed  float64 // CPU-seconds for each, one hop
	gb                      float64 // CPU-seconds for each GB of bodies, one hop
	worstConn, worstCluster float64 // MiB that the fits are off at worst
}

// costsOf takes a peer's costs from the scale measures and from those of
// performance.json.
func costsOf(scale, performance *results, peer string) (c costs, err error) {
	fit := func(group string) line {
		var xs, ys []float64
		for _, w := range scaleRows() {
			if strings.HasPrefix(w.id, group+"/") {
				size, ok := scale.of(w.id, peer, "size")
				memory, ok2 := scale.of(w.id, peer, "pss_mib")
				if ok && ok2 {
					xs, ys = append(xs, size.median), append(ys, memory.median)
				}
			}
		}
		l, e := fitLine(xs, ys)
		if e != nil && err == nil {
			err = fmt.Errorf("%s of %s: %w", group, peer, e)
		}
		return l
	}
	take := func(r *results, row, key string) float64 {
		s, ok := r.of(row, peer, key)
		if !ok && err == nil {
			err = fmt.Errorf("there is no %s of %s for %s", key, row, peer)
		}
		return s.median
	}
	conns, chains, clusters := fit("connections"), fit("chains"), fit("clusters")
	c.base, c.conn, c.worstConn = conns.base, conns.slope*1024, conns.worst
	c.chain, c.cluster, c.worstCluster = chains.slope*1024, clusters.slope*1024, clusters.worst
	c.idle = take(scale, "connections/0", "idle_ms_per_s") / 1e3
	c.request = 1 / take(performance, "http/h1/8", "per_cpu_s") / 2 // over two hops
	mean := func(kind string) float64 {
		return (1/take(performance, "new/terminate/"+kind, "conns_per_cpu_s") + 1/take(performance, "new/originate/"+kind, "conns_per_cpu_s")) / 2
	}
	c.full, c.resumed = mean("full"), mean("resumed")
	c.gb = (take(performance, "bulk/terminate/down/8", "cpu_s_per_gb") + take(performance, "bulk/originate/down/8", "cpu_s_per_gb")) / 2
	return c, err
}

// spreadOut is a quantity that differs from sidecar to sidecar: lognormal, so
// that a few have much more than most.
type spreadOut struct{ median, sigma float64 }

// at is the value that normal's z-th standard deviation has.
func (s spreadOut) at(z float64) float64 { return s.median * math.Exp(s.sigma*z) }

func (s spreadOut) draw(r *rand.Rand) float64 { return s.at(r.NormFloat64()) }

// fleet is what the simulated sidecars have to do.
type fleet struct {
	name             string
	sidecars         int
	chains, clusters int
	connections      spreadOut // open mTLS connections
	requests         spreadOut // a second, either direction
	fresh            spreadOut // new mTLS connections a second
	resumed          float64   // the share of those that resume
	bodies           float64   // bytes of a request and its answer beyond the first KiB
	renewals         float64   // seconds between certificates: each ends no connection, and costs one signature and request
	renewal          float64   // CPU-seconds of one, generously
	seed             uint64
}

// profile is the fleet of the page.
var profile = fleet{
	name: "the profile", sidecars: 100_000, chains: 10, clusters: 200,
	connections: spreadOut{40, 1}, requests: spreadOut{20, 1.5}, fresh: spreadOut{0.5, 1.2},
	resumed: 0.5, bodies: 4096, renewals: 12 * 3600, renewal: 1e-3, seed: 1,
}

// fleets are the profile, and what is left of it in the night and in the rush.
func fleets() []fleet {
	quiet, busy := profile, profile
	quiet.name, quiet.requests.median, quiet.fresh.median, quiet.connections.median = "quiet: a tenth of the work", 2, 0.05, 20
	busy.name, busy.requests.median, busy.fresh.median, busy.connections.median = "busy: five times the work", 100, 2.5, 120
	return []fleet{quiet, profile, busy}
}

// bill is what a fleet takes.
type bill struct {
	cores, gib            float64 // in all
	idleCores             float64 // of cores: for being there
	medianMiB, p99MiB     float64 // of a sidecar
	medianMilli, p99Milli float64 // thousandths of a core
}

// run simulates the fleet: each sidecar draws its load, and costs what its parts
// do. The same seed draws the same sidecars whatever they cost.
func (f fleet) run(c costs) bill {
	r := rand.New(rand.NewPCG(f.seed, f.seed))
	memory, cpu := make([]float64, f.sidecars), make([]float64, f.sidecars)
	var b bill
	for i := range f.sidecars {
		conns, requests, fresh := f.connections.draw(r), f.requests.draw(r), f.fresh.draw(r)
		memory[i] = c.base + (conns*c.conn+float64(f.chains-1)*c.chain+float64(f.clusters-1)*c.cluster)/1024
		cpu[i] = c.idle + requests*(c.request+f.bodies/1e9*c.gb) +
			fresh*(f.resumed*c.resumed+(1-f.resumed)*c.full) + f.renewal/f.renewals
		b.gib += memory[i] / 1024
		b.cores += cpu[i]
	}
	b.idleCores = c.idle * float64(f.sidecars)
	slices.Sort(memory)
	slices.Sort(cpu)
	at := func(all []float64, q float64) float64 { return all[min(len(all)-1, int(q*float64(len(all))))] }
	b.medianMiB, b.p99MiB = at(memory, 0.5), at(memory, 0.99)
	b.medianMilli, b.p99Milli = 1e3*at(cpu, 0.5), 1e3*at(cpu, 0.99)
	return b
}
