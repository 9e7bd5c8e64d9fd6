// Package lb holds the load balancers as pure choices: each is built from
// weights and keys, is immutable but for a counter, and answers an index. The
// living things (hosts, health, connections) are the caller's.
//
// All choices may be made by many goroutines at once.
package lb

import "sync/atomic"

// Input is what one choice depends on.
type Input struct {
	// Hash is of the connection, for the consistent hashes and for choosing
	// the priority; without one it is a random number.
	Hash uint64
	// Attempt counts the choices made before for the same connection, so that
	// a consistent hash can answer another host; 0 is the first.
	Attempt uint32
	// Peek answers without advancing anything: the next choice is the same.
	Peek bool
}

// Picker chooses one of the hosts that it was built from.
type Picker interface {
	// Pick is the index of the chosen host, -1 if there is none.
	Pick(in Input) int
}

// strideScale is the weight of the heaviest host after scaling: 16 bits keep
// the products within 64 bits at any sequence number that is ever reached.
const strideScale = 1<<16 - 1

// Stride chooses in proportion to weights, interleaved: of weights 3 and 1 it
// answers 0 0 1 0 in some rotation, never 0 0 0 1 1. It has no state but a
// counter, unlike a heap of deadlines.
type Stride struct {
	weights []uint64 // scaled; nil if all are equal
	n       uint64
	next    atomic.Uint64
}

// NewStride makes a Stride over weights, of which none may be negative;
// hosts of weight 0 are never chosen unless all weights are 0. seed is where
// the rotation starts, so that many proxies do not start on the same host.
func NewStride(weights []float64, seed uint64) *Stride {
	s := &Stride{n: uint64(len(weights)), weights: scale(weights)}
	if s.n > 0 {
		s.next.Store(seed % (s.n * strideScale))
	}
	return s
}

// scale is nil for equal weights.
func scale(weights []float64) []uint64 {
	var most float64
	equal := true
	for _, w := range weights {
		most = max(most, w)
		equal = equal && w == weights[0]
	}
	if equal || most == 0 {
		return nil
	}
	out := make([]uint64, len(weights))
	for i, w := range weights {
		if w > 0 {
			out[i] = max(1, uint64(w/most*strideScale+0.5))
		}
	}
	return out
}

// Pick implements Picker. in.Hash has no effect.
func (s *Stride) Pick(in Input) int {
	if s.n == 0 {
		return -1
	}
	if in.Peek {
		at := s.next.Load()
		return s.find(func() uint64 { at++; return at - 1 })
	}
	return s.find(func() uint64 { return s.next.Add(1) - 1 })
}

// find takes sequence numbers until one is a host's turn. In each round of n
// numbers a host of full weight is chosen once, another of weight w in w of
// strideScale rounds, so a choice takes n numbers at most.
func (s *Stride) find(sequence func() uint64) int {
	for {
		at := sequence()
		i := at % s.n
		if s.weights == nil {
			return int(i)
		}
		w := s.weights[i]
		// The offset spreads hosts of equal weight over the rounds.
		turn := (w*((at/s.n)%strideScale) + i*(strideScale/2)) % strideScale
		if w > 0 && turn >= strideScale-w {
			return int(i)
		}
	}
}

// Random chooses each of n hosts alike; weights have no effect, as in Envoy's
// RANDOM.
type Random struct {
	n    uint64
	rand func() uint64
}

// NewRandom makes a Random over n hosts.
func NewRandom(n int, rand func() uint64) *Random { return &Random{uint64(n), rand} }

// Pick implements Picker.
func (r *Random) Pick(Input) int {
	if r.n == 0 {
		return -1
	}
	return int(r.rand() % r.n)
}
