package peermetadata

import (
	"strings"
	"sync"

	"outrider/proxy/istio/peer"
)

// maxKnown bounds the peers that are remembered (Istio's max_peer_cache_size).
const maxKnown = 500

// known remembers what was read from the header of each peer, by all of the
// header: by the ID beside it, as Istio's filter does, one client could say what
// another is.
type known struct {
	additional []string // labels to take

	mu    sync.RWMutex
	peers map[string]*peer.Peer // guarded by mu
}

// of is the peer of a header; nil if it is nonsense, which is not remembered.
func (k *known) of(header string) *peer.Peer {
	k.mu.RLock()
	p := k.peers[header]
	k.mu.RUnlock()
	if p != nil {
		return p
	}
	w, err := peer.FromHeader(header, k.additional)
	if err != nil {
		return nil
	}
	p = peer.New(w)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.peers == nil {
		k.peers = map[string]*peer.Peer{}
	}
	if len(k.peers) >= maxKnown {
		k.forget()
	}
	k.peers[strings.Clone(header)] = p // not all of the head that it is a part of
	return p
}

// forget makes room for a quarter. It is called with mu held.
func (k *known) forget() {
	left := maxKnown / 4
	for header := range k.peers {
		if left--; left < 0 {
			return
		}
		delete(k.peers, header)
	}
}
