//go:build race

package relay

// poolAllocs is what the race detector adds to a round: it makes a sync.Pool
// forget some of what it is given.
const poolAllocs = 3
