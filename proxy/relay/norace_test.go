//go:build !race

package relay

const poolAllocs = 0
