package proxy

import (
	"net/netip"
	"sync"
	"time"

	"outrider/proxy/flow"
)

// How much is remembered of servers that speak first, and for how long after
// it was last seen. A server that has changed costs the dial of each client
// that is silent for a moment.
const (
	serverMemoryTTL  = 10 * time.Minute
	serverMemorySize = 1024 // servers
	clientMemorySize = 4096 // clients that speak TLS
)

// serverMemory is which servers speak first, and which clients speak TLS to
// them. Its methods may be called by many goroutines.
type serverMemory struct {
	mu      sync.Mutex
	servers recent[netip.AddrPort] // guarded by mu
	clients recent[tlsClient]      // guarded by mu
}

// tlsClient is a client of a server.
type tlsClient struct {
	server netip.AddrPort
	client netip.Addr
}

func clientOf(info *flow.Info) tlsClient {
	return tlsClient{info.Local.AddrPort, info.Remote.Addr()}
}

func newServerMemory() *serverMemory {
	return &serverMemory{
		servers: recent[netip.AddrPort]{size: serverMemorySize},
		clients: recent[tlsClient]{size: clientMemorySize},
	}
}

// recollection is what is known before a client has said anything.
type recollection int

const (
	unknownServer recollection = iota
	speaksFirst
	// speaksTLS: clients from that address have spoken TLS to the server,
	// whatever that does.
	speaksTLS
)

func (m *serverMemory) recall(info *flow.Info) recollection {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.clients.has(clientOf(info), now):
		return speaksTLS
	case m.servers.has(info.Local.AddrPort, now):
		return speaksFirst
	}
	return unknownServer
}

// found notes a server that spoke first.
func (m *serverMemory) found(info *flow.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers.add(info.Local.AddrPort, time.Now())
}

// spokeTLS notes a client that speaks TLS to a server.
func (m *serverMemory) spokeTLS(info *flow.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients.add(clientOf(info), time.Now())
}

// recent keeps the keys that were added last, at least half of size and at most
// size of them, for the TTL. It has two generations: when the younger is full
// the older is dropped whole.
type recent[K comparable] struct {
	size         int
	young, older map[K]time.Time // when it was added last
}

func (r *recent[K]) add(key K, now time.Time) {
	if r.young == nil || len(r.young) >= r.size/2 {
		if _, there := r.young[key]; !there {
			r.older, r.young = r.young, make(map[K]time.Time)
		}
	}
	r.young[key] = now
}

func (r *recent[K]) has(key K, now time.Time) bool {
	added, there := r.young[key]
	if !there {
		added, there = r.older[key]
	}
	return there && now.Sub(added) < serverMemoryTTL
}
