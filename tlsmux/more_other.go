//go:build !linux

package tlsmux

// moreComes: only Linux can be told of each send(2).
const moreComes = 0
