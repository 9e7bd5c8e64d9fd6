package lb

import (
	"container/heap"
	"math"
	"sync"
)

// LeastConfig is how LEAST_REQUEST chooses, and ROUND_ROBIN while weights change
// (with Bias 0).
type LeastConfig struct {
	Choices uint32  // of equal weights: how many hosts are compared; default 2
	Bias    float64 // of unequal weights: the exponent of the active requests
	// Active is the number of connections of host i now.
	Active func(i int) uint64
	// Part is what part of its weight host i has now, above 0; nil if it is all of
	// it, always.
	Part func(i int) float64
	Rand func() uint64
}

// NewLeast makes LEAST_REQUEST over weights: with equal weights the best of a
// few random hosts, else a schedule by weight / (active + 1)^bias.
func NewLeast(weights []float64, cfg LeastConfig) Picker {
	if cfg.Choices == 0 {
		cfg.Choices = 2
	}
	for _, w := range weights {
		if w != weights[0] || cfg.Part != nil {
			return newSchedule(weights, cfg)
		}
	}
	return &leastOfFew{n: uint64(len(weights)), cfg: cfg}
}

// NewRamp makes ROUND_ROBIN over weights of which only a part counts now; see
// LeastConfig.Part.
func NewRamp(weights []float64, part func(i int) float64, rand func() uint64) Picker {
	return newSchedule(weights, LeastConfig{Part: part, Rand: rand})
}

// leastOfFew is the power of two choices.
type leastOfFew struct {
	n   uint64
	cfg LeastConfig
}

func (l *leastOfFew) Pick(Input) int {
	if l.n == 0 {
		return -1
	}
	best := int(l.cfg.Rand() % l.n)
	least := l.cfg.Active(best)
	for i := uint32(1); i < l.cfg.Choices; i++ {
		other := int(l.cfg.Rand() % l.n)
		if active := l.cfg.Active(other); active < least {
			best, least = other, active
		}
	}
	return best
}

// schedule is earliest deadline first: whoever is chosen comes again after
// 1 / its weight at that time. A weight that depends on the load cannot be
// laid out ahead, so this is the one balancer with a lock.
type schedule struct {
	cfg     LeastConfig
	weights []float64

	mu    sync.Mutex
	queue deadlines // guarded by mu
	now   float64   // guarded by mu
	order uint64    // guarded by mu
}

type deadline struct {
	at    float64
	order uint64 // of equal deadlines the one that was put in first
	index int
}

type deadlines []deadline

func (d deadlines) Len() int { return len(d) }
func (d deadlines) Less(i, j int) bool {
	if d[i].at != d[j].at {
		return d[i].at < d[j].at
	}
	return d[i].order < d[j].order
}
func (d deadlines) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)   { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

func newSchedule(weights []float64, cfg LeastConfig) *schedule {
	s := &schedule{cfg: cfg, weights: weights}
	for i, w := range weights {
		if w > 0 {
			s.order++
			s.queue = append(s.queue, deadline{1 / s.weight(i), s.order, i})
		}
	}
	heap.Init(&s.queue)
	// Start at a random place, so that many proxies do not start alike.
	if n := len(s.queue); n > 0 {
		for range cfg.Rand() % uint64(n) {
			s.Pick(Input{})
		}
	}
	return s
}

func (s *schedule) Pick(in Input) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return -1
	}
	first := &s.queue[0]
	chosen := first.index
	if in.Peek {
		return chosen
	}
	s.now = first.at
	s.order++
	first.at, first.order = s.now+1/s.weight(chosen), s.order
	heap.Fix(&s.queue, 0)
	return chosen
}

// weight is that of host i now.
func (s *schedule) weight(i int) float64 {
	w := s.weights[i]
	if s.cfg.Part != nil {
		w *= s.cfg.Part(i)
	}
	switch s.cfg.Bias {
	case 0:
		return w
	case 1:
		return w / float64(s.cfg.Active(i)+1)
	default:
		return w / math.Pow(float64(s.cfg.Active(i)+1), s.cfg.Bias)
	}
}
