package dns

import (
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

const (
	// maxNegativeLife caps how long a name is taken to be absent: as long as an
	// answer from the table lives. RFC 2308, section 5 allows hours, but what
	// is absent from a mesh is often just about to come.
	maxNegativeLife = ttl * time.Second
	// maxNegatives bounds the memory of the cache: about 1 KiB each.
	maxNegatives = 4096
)

// negatives are the answers that something is not there (RFC 2308).
type negatives struct {
	mu  sync.Mutex // guards all
	all map[key]negative
}

type negative struct {
	reply  *wire.Msg // read only
	stored time.Time
	until  time.Time
}

func newNegatives() *negatives { return &negatives{all: map[key]negative{}} }

// get is the answer to k with its records' remaining time; nil if there is
// none.
func (n *negatives) get(k key) *wire.Msg {
	n.mu.Lock()
	e, ok := n.all[k]
	now := time.Now()
	if ok && !now.Before(e.until) {
		delete(n.all, k)
		ok = false
	}
	n.mu.Unlock()
	if !ok {
		return nil
	}
	m := e.reply.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, rr := range m.Ns {
		h := rr.Header()
		h.Ttl -= min(h.Ttl, age)
	}
	return m
}

// put keeps m if it says that something is absent, and for how long.
func (n *negatives) put(k key, m *wire.Msg) {
	life := negativeLife(m)
	if life <= 0 {
		return
	}
	now := time.Now()
	m = m.Copy()
	m.Authoritative = false // RFC 1034, section 6.2.7: what is cached is not
	for _, rr := range m.Ns {
		h := rr.Header()
		h.Ttl = min(h.Ttl, uint32(life/time.Second))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.all) >= maxNegatives {
		n.evict(now)
	}
	n.all[k] = negative{reply: m, stored: now, until: now.Add(life)}
}

// evict makes room: what has ended goes, or else any one. It needs mu.
func (n *negatives) evict(now time.Time) {
	looked := 0
	for k, e := range n.all {
		if looked++; !now.Before(e.until) || looked >= 16 { // a bound on the work
			delete(n.all, k)
			return
		}
	}
}

// forget empties the cache.
func (n *negatives) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.all)
}

// negativeLife is for how long m's absence holds: the lesser of the SOA's TTL
// and its minimum (RFC 2308, section 5), capped. 0 is not at all: m has an
// answer, failed, or has no SOA (section 2.1, 2.2).
func negativeLife(m *wire.Msg) time.Duration {
	absent := m.Rcode == wire.RcodeNameError || m.Rcode == wire.RcodeSuccess
	if !absent || len(m.Answer) > 0 || m.Truncated {
		return 0
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*wire.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegativeLife)
		}
	}
	return 0
}
