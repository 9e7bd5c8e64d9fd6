package lb

// Level is the health of one priority.
type Level struct {
	Hosts, Healthy, Degraded, Excluded int
	// HealthyWeight, DegradedWeight and TotalWeight stand for the counts where
	// Weighted (weighted_priority_health).
	Weighted                                   bool
	HealthyWeight, DegradedWeight, TotalWeight uint64
}

// Load says which share of the connections each priority takes, in percent;
// Healthy and Degraded together are 100. Panic says for which priorities
// health is not looked at.
type Load struct {
	Healthy, Degraded []uint32
	Panic             []bool
}

// Distribute spreads the load over priorities as Envoy does: a priority whose
// healthy hosts, times overprovisioning (in percent, 140), are fewer than all
// leaves the rest to the next. panicThreshold is in percent of hosts; below
// it a priority goes into panic, if all priorities together cannot carry the
// load.
func Distribute(levels []Level, overprovisioning uint32, panicThreshold float64) Load {
	n := len(levels)
	load := Load{make([]uint32, n), make([]uint32, n), make([]bool, n)}
	if n == 0 {
		return load
	}
	healthy, degraded := make([]uint32, n), make([]uint32, n)
	var total uint32
	for i, l := range levels {
		healthy[i], degraded[i] = l.availability(overprovisioning)
		total += healthy[i] + degraded[i]
	}
	total = min(total, 100)
	load.spread(healthy, degraded, total)
	load.panics(levels, total, min(panicThreshold, 100))
	return load
}

// availability is in percent, 100 at most.
func (l Level) availability(overprovisioning uint32) (healthy, degraded uint32) {
	total := uint64(l.Hosts - l.Excluded)
	h, d := uint64(l.Healthy), uint64(l.Degraded)
	if l.Weighted {
		total, h, d = l.TotalWeight, l.HealthyWeight, l.DegradedWeight
	}
	if total == 0 {
		return 0, 0
	}
	percent := func(part uint64) uint32 { return uint32(min(100, uint64(overprovisioning)*part/total)) }
	return percent(h), percent(d)
}

// spread gives healthy hosts as much as they carry, in order of priority, then
// degraded ones; what rounding leaves goes to the first that has any.
func (l *Load) spread(healthy, degraded []uint32, total uint32) {
	if total == 0 {
		l.Healthy[0] = 100
		return
	}
	left := uint32(100)
	first := func(to, availability []uint32) *uint32 {
		var first *uint32
		for i, a := range availability {
			to[i] = min(left, a*100/total)
			left -= to[i]
			if first == nil && a > 0 {
				first = &to[i]
			}
		}
		return first
	}
	firstHealthy := first(l.Healthy, healthy)
	firstDegraded := first(l.Degraded, degraded)
	switch {
	case firstHealthy != nil:
		*firstHealthy += left
	case firstDegraded != nil:
		*firstDegraded += left
	}
}

func (l *Load) panics(levels []Level, total uint32, threshold float64) {
	if threshold == 0 && total == 0 {
		return // panic is off, nobody is there: all goes to priority 0, in vain
	}
	all := true
	for i, level := range levels {
		l.Panic[i] = total != 100 && level.inPanic(threshold)
		all = all && l.Panic[i]
	}
	if all {
		l.spreadByHosts(levels)
	}
}

func (l Level) inPanic(threshold float64) bool {
	count := l.Hosts - l.Excluded
	if count == 0 {
		return 0 < threshold
	}
	return 100*float64(l.Healthy+l.Degraded)/float64(count) < threshold
}

// spreadByHosts is for when every priority is in panic.
func (l *Load) spreadByHosts(levels []Level) {
	total := 0
	for _, level := range levels {
		total += level.Hosts
	}
	clear(l.Healthy)
	clear(l.Degraded)
	if total == 0 {
		l.Healthy[0] = 100
		return
	}
	left, first := uint32(100), -1
	for i, level := range levels {
		l.Healthy[i] = uint32(100 * level.Hosts / total)
		left -= l.Healthy[i]
		if first < 0 && level.Hosts > 0 {
			first = i
		}
	}
	l.Healthy[first] += left
}

// Choose answers the priority for a connection, and whether it is its degraded
// hosts that take it.
func (l Load) Choose(hash uint64) (priority int, degraded bool) {
	if len(l.Healthy) == 1 && l.Healthy[0] == 100 {
		return 0, false
	}
	at, sum := uint32(hash%100)+1, uint32(0)
	for i, share := range l.Healthy {
		if sum += share; at <= sum {
			return i, false
		}
	}
	for i, share := range l.Degraded {
		if sum += share; at <= sum {
			return i, true
		}
	}
	return 0, false
}
