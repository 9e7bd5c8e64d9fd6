package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/flow"
)

// How much is remembered of servers that speak first, and for how long after
// it was last seen. A server that has changed costs the dial of each client
// that is silent for a moment.
const (
	serverMemoryTTL  = 10 * time.Minute
	serverMemorySize = 1024 // servers
	clientMemorySize = 4096 // clients that speak TLS to them
)

// serverMemory is which servers speak first, and which clients speak TLS to
// those. Its methods may be called by many goroutines.
type serverMemory struct {
	any atomic.Bool // some server is known: for the listeners where none ever is

	mu      sync.Mutex
	servers map[netip.AddrPort]time.Time // guarded by mu; until when
	clients map[tlsClient]time.Time      // guarded by mu; until when
}

// tlsClient is a client of a server that speaks first.
type tlsClient struct {
	server netip.AddrPort
	client netip.Addr
}

func newServerMemory() *serverMemory {
	return &serverMemory{servers: map[netip.AddrPort]time.Time{}, clients: map[tlsClient]time.Time{}}
}

// recollection is what is known before a client has said anything.
type recollection int

const (
	unknownServer recollection = iota
	speaksFirst
	// speaksFirstButTLS: clients from that address have spoken TLS to it.
	speaksFirstButTLS
)

func (m *serverMemory) recall(info *flow.Info) recollection {
	if !m.any.Load() {
		return unknownServer
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.servers[info.Local.AddrPort].After(now):
		return unknownServer
	case m.clients[clientOf(info)].After(now):
		return speaksFirstButTLS
	}
	return speaksFirst
}

// found notes a server that spoke first.
func (m *serverMemory) found(info *flow.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	remember(m.servers, info.Local.AddrPort, serverMemorySize)
	m.any.Store(true)
}

// spokeTLS notes a client that speaks TLS to a server that is known.
func (m *serverMemory) spokeTLS(info *flow.Info) {
	if m.recall(info) == unknownServer {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	remember(m.clients, clientOf(info), clientMemorySize)
}

func clientOf(info *flow.Info) tlsClient {
	return tlsClient{info.Local.AddrPort, info.Remote.Addr()}
}

// remember keeps key for the TTL. In a full map it takes the place of the one
// that would be forgotten next.
func remember[K comparable](in map[K]time.Time, key K, size int) {
	if _, known := in[key]; !known && len(in) >= size {
		var oldest K
		first := true
		for k, until := range in {
			if first || until.Before(in[oldest]) {
				oldest, first = k, false
			}
		}
		delete(in, oldest)
	}
	in[key] = time.Now().Add(serverMemoryTTL)
}
