package lb

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Node is one host of a consistent hash.
type Node struct {
	// Key is what is hashed: the address, host name or hash_key metadata.
	Key string
	// Weight is the host's share: all of them add up to 1.
	Weight float64
}

// Ring is Envoy's RING_HASH: the ketama ring, with the same hashes, so that
// both put the same connection on the same host.
type Ring struct {
	points []point
	// Least and Most are the numbers of points per host.
	Least, Most uint64
}

type point struct {
	hash uint64
	node int32
}

// RingConfig is the size of a ring: as many points as the lightest host needs
// to have a whole number of them, at least Min, at most Max.
type RingConfig struct {
	Min, Max uint64
	Murmur   bool // MURMUR_HASH_2 rather than XX_HASH
}

// NewRing lays out the ring of nodes.
func NewRing(nodes []Node, cfg RingConfig) *Ring {
	r := &Ring{}
	lightest := 1.0
	for _, n := range nodes {
		if n.Weight > 0 {
			lightest = min(lightest, n.Weight)
		}
	}
	if len(nodes) == 0 {
		return r
	}
	size := min(math.Ceil(lightest*float64(cfg.Min))/lightest, float64(cfg.Max))
	r.points = make([]point, 0, int(math.Ceil(size)))
	r.Least = uint64(math.Ceil(size))
	var have, want float64
	for i, n := range nodes {
		want += size * n.Weight
		key := append([]byte(n.Key), '_')
		count := uint64(0)
		for ; have < want; have++ {
			hash := ringHash(strconv.AppendUint(key, count, 10), cfg.Murmur)
			r.points = append(r.points, point{hash, int32(i)})
			count++
		}
		r.Least, r.Most = min(r.Least, count), max(r.Most, count)
	}
	slices.SortStableFunc(r.points, func(a, b point) int { return cmp.Compare(a.hash, b.hash) })
	return r
}

func ringHash(b []byte, murmur bool) uint64 {
	if murmur {
		return murmur2(b, murmurSeed)
	}
	return xxhash.Sum64(b)
}

// Size is the number of points.
func (r *Ring) Size() int { return len(r.points) }

// Pick implements Picker: the first point at or after the hash.
func (r *Ring) Pick(in Input) int {
	if len(r.points) == 0 {
		return -1
	}
	at, _ := slices.BinarySearchFunc(r.points, in.Hash, func(p point, h uint64) int { return cmp.Compare(p.hash, h) })
	return int(r.points[(at+int(in.Attempt))%len(r.points)].node)
}

// Maglev is Envoy's MAGLEV: the lookup table of the Maglev paper, with weights.
type Maglev struct {
	table []int32
	// Least and Most are the numbers of entries per host.
	Least, Most uint64
}

// DefaultMaglevSize is Envoy's table size.
const DefaultMaglevSize = 65537

// NewMaglev fills a table of the given size, which must be prime; 0 is the
// default.
func NewMaglev(nodes []Node, size uint64) *Maglev {
	if size == 0 {
		size = DefaultMaglevSize
	}
	entries, heaviest := maglevEntries(nodes, size)
	m := &Maglev{}
	if len(entries) == 0 || size < 2 {
		return m
	}
	m.table = make([]int32, size)
	for i := range m.table {
		m.table[i] = -1
	}
	filled := uint64(0)
	for round := 1.0; filled < size; round++ {
		for i := range entries {
			e := &entries[i]
			// The heaviest has a turn in every round, one a third as heavy in
			// every third.
			if filled == size || round*e.weight < e.target {
				continue
			}
			e.target += heaviest
			for m.table[e.at(size)] >= 0 {
				e.next++
			}
			m.table[e.at(size)] = e.node
			e.next++
			e.count++
			filled++
		}
	}
	m.Least = size
	for _, e := range entries {
		m.Least, m.Most = min(m.Least, e.count), max(m.Most, e.count)
	}
	return m
}

type maglevEntry struct {
	node           int32
	key            string
	offset, skip   uint64
	weight, target float64
	next, count    uint64
}

func (e *maglevEntry) at(size uint64) uint64 { return (e.offset + e.skip*e.next) % size }

// maglevEntries are in the order of their keys, so that the order in which
// hosts were given has no effect.
func maglevEntries(nodes []Node, size uint64) ([]maglevEntry, float64) {
	entries := make([]maglevEntry, 0, len(nodes))
	heaviest := 0.0
	for i, n := range nodes {
		if n.Weight <= 0 {
			continue
		}
		second := xxhash.NewWithSeed(1)
		_, _ = second.WriteString(n.Key)
		entries = append(entries, maglevEntry{
			node: int32(i), key: n.Key, weight: n.Weight,
			offset: xxhash.Sum64String(n.Key) % size,
			skip:   second.Sum64()%max(1, size-1) + 1,
		})
		heaviest = max(heaviest, n.Weight)
	}
	slices.SortStableFunc(entries, func(a, b maglevEntry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.weight, b.weight))
	})
	return entries, heaviest
}

// Pick implements Picker.
func (m *Maglev) Pick(in Input) int {
	if len(m.table) == 0 {
		return -1
	}
	h := in.Hash
	if in.Attempt > 0 {
		h ^= ^uint64(0) - uint64(in.Attempt) + 1
	}
	return int(m.table[h%uint64(len(m.table))])
}

// Bounded keeps a consistent hash from overloading a host
// (hash_balance_factor): a host with more than Factor percent of its fair
// share of connections is passed over, for hosts in an order that the hash
// determines.
type Bounded struct {
	Inner  Picker
	Nodes  []Node
	Factor uint32
	// Active is the number of connections of host i, Overall of all hosts.
	Active  func(i int) uint64
	Overall func() uint64
}

// Pick implements Picker.
func (b *Bounded) Pick(in Input) int {
	first := b.Inner.Pick(in)
	if first < 0 {
		return first
	}
	best, least := first, b.overload(first)
	if least <= 1 {
		return first
	}
	for _, i := range rand.New(rand.NewPCG(in.Hash, 0)).Perm(len(b.Nodes)) { //nolint:gosec // an order, not a secret
		if i == first || b.Nodes[i].Weight <= 0 {
			continue
		}
		over := b.overload(i)
		if over <= 1 {
			return i
		}
		if over < least {
			best, least = i, over
		}
	}
	return best
}

// overload is how many times its slots host i has in use.
func (b *Bounded) overload(i int) float64 {
	slots := ((b.Overall()+1)*uint64(b.Factor) + 99) / 100
	own := max(math.Ceil(float64(slots)*b.Nodes[i].Weight), 1)
	return float64(b.Active(i)) / own
}

// murmurSeed is the seed of libstdc++'s std::hash, which Envoy's
// MURMUR_HASH_2 stands for.
const murmurSeed = 0xc70f6907

// murmur2 is 64-bit MurmurHash2 as libstdc++ has it.
func murmur2(b []byte, seed uint64) uint64 {
	const mul = 0xc6a4a7935bd1e995
	mix := func(v uint64) uint64 { return v ^ v>>47 }
	h := seed ^ uint64(len(b))*mul
	for ; len(b) >= 8; b = b[8:] {
		h = (h ^ mix(binary.LittleEndian.Uint64(b)*mul)*mul) * mul
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		h = (h ^ binary.LittleEndian.Uint64(tail[:])) * mul
	}
	return mix(mix(h) * mul)
}
