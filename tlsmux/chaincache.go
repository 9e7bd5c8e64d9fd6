package tlsmux

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// chainCache remembers chains that were verified, so that the next handshake
// with the same certificates builds none. It belongs to one policy: another
// bundle or another list begins with an empty one. Times are still checked.
type chainCache struct {
	mu      sync.Mutex
	entries map[[sha256.Size]byte]window // guarded by mu
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

func (c *chainCache) holds(key [sha256.Size]byte, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.entries[key]
	return ok && !now.Before(w.from) && !now.After(w.to)
}

// put remembers a good chain for as long as its certificates and the lists are
// in their time; at any time, if that does not matter.
func (c *chainCache) put(key [sha256.Size]byte, chain []*x509.Certificate, crls []*x509.RevocationList, anyTime bool) {
	w := window{chain[0].NotBefore, chain[0].NotAfter}
	for _, cert := range chain[1:] {
		w.narrow(cert.NotBefore, cert.NotAfter)
	}
	for _, crl := range crls {
		if !anyTime && !crl.NextUpdate.IsZero() {
			w.narrow(crl.ThisUpdate, crl.NextUpdate)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= maxChains {
		c.entries = map[[sha256.Size]byte]window{}
	}
	c.entries[key] = w
}

func (w *window) narrow(from, to time.Time) {
	if from.After(w.from) {
		w.from = from
	}
	if to.Before(w.to) {
		w.to = to
	}
}
