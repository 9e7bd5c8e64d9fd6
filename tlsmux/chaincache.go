package tlsmux

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// chainCache remembers chains that were verified, so that the next handshake
// with the same certificates builds none. It belongs to one policy: another
// bundle or another list begins with an empty one. Times are still checked.
type chainCache struct {
	mu      sync.Mutex
	entries map[[sha256.Size]byte]vetted // guarded by mu
}

// vetted is what is known of a chain that was verified.
type vetted struct {
	window
	// root is the anchor that it leads to; until is when the first of its
	// certificates ends, zero where that does not matter. The zero vetted is of
	// a policy that verifies no chain.
	root  *x509.Certificate
	until time.Time
	// peer is the chain as it was presented first, and id its leaf's SPIFFE ID:
	// the connections of one peer share them.
	peer []*x509.Certificate
	id   spiffeid.ID
}

// window is the time within which every certificate and list of a chain is
// valid.
type window struct{ from, to time.Time }

// maxChains bounds the cache. When it is full it begins anew: a mesh has fewer
// peers, and an attacker gains nothing but a chain to build.
const maxChains = 4096

func chainKey(chain []*x509.Certificate, side Side) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte{byte(side)})
	for _, c := range chain {
		h.Write(c.Raw) // DER says its own length
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (c *chainCache) get(key [sha256.Size]byte, now time.Time) (v vetted, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok = c.entries[key]
	return v, ok && !now.Before(v.from) && !now.After(v.to)
}

// vettedOf is what a good chain, up to its root, is good for: as long as its
// certificates and the lists are in their time; at any time, if that does not
// matter.
func (p *policy) vettedOf(chain []*x509.Certificate) vetted {
	v := vetted{window: window{chain[0].NotBefore, chain[0].NotAfter}, root: chain[len(chain)-1]}
	for _, cert := range chain[1:] {
		v.narrow(cert.NotBefore, cert.NotAfter)
	}
	if p.AllowExpired {
		return v
	}
	v.until = v.to
	for _, crl := range p.CRLs {
		if !crl.NextUpdate.IsZero() {
			v.narrow(crl.ThisUpdate, crl.NextUpdate)
		}
	}
	return v
}

func (c *chainCache) put(key [sha256.Size]byte, v vetted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= maxChains {
		c.entries = map[[sha256.Size]byte]vetted{}
	}
	c.entries[key] = v
}

func (w *window) narrow(from, to time.Time) {
	if from.After(w.from) {
		w.from = from
	}
	if to.Before(w.to) {
		w.to = to
	}
}
