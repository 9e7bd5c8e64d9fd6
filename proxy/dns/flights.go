package dns

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// flights let questions that are the same, at the same time, be asked once: a
// flood of one question costs one socket, and no attacker gains from many
// answers that would fit (RFC 5452, section 5).
type flights struct {
	mu  sync.Mutex // guards all
	all map[key]*flight
}

type flight struct {
	done  chan struct{} // closed when reply and err are there
	reply *wire.Msg     // read only
	err   error
}

func newFlights() *flights { return &flights{all: map[key]*flight{}} }

// do asks, or waits for who does already (shared). If that one was cut off with
// its client, the next asks itself.
func (f *flights) do(ctx context.Context, k key, ask func(context.Context) (*wire.Msg, error)) (r *wire.Msg, shared bool, err error) {
	for {
		f.mu.Lock()
		other := f.all[k]
		if other == nil {
			break
		}
		f.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, true, ctx.Err()
		}
		if other.err == nil || !isCancelled(other.err) {
			return other.reply, true, other.err
		}
	}
	own := &flight{done: make(chan struct{}), err: context.Canceled}
	f.all[k] = own
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.all, k)
		f.mu.Unlock()
		close(own.done)
	}()
	own.reply, own.err = ask(ctx)
	if ctx.Err() != nil && own.err != nil {
		own.err = ctx.Err()
	}
	return own.reply, false, own.err
}

func isCancelled(err error) bool { return err == context.Canceled } //nolint:errorlint // what do itself sets

// badFor is for how long a server that gave no answer is asked after the
// others.
const badFor = 10 * time.Second

// serverHealth says which servers gave no answer of late.
type serverHealth struct {
	mu   sync.Mutex // guards bads
	bads map[netip.AddrPort]time.Time
}

func newServerHealth() *serverHealth { return &serverHealth{bads: map[netip.AddrPort]time.Time{}} }

// maxBad bounds what is remembered: clients name servers, too.
const maxBad = 64

func (h *serverHealth) bad(server netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.bads) >= maxBad {
		clear(h.bads)
	}
	h.bads[server] = time.Now().Add(badFor)
}

func (h *serverHealth) good(server netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.bads, server)
}

// order is servers in their order, but the bad ones last.
func (h *serverHealth) order(servers []netip.AddrPort) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	out := slices.Clone(servers)
	rank := func(a netip.AddrPort) int {
		if now.Before(h.bads[a]) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return rank(a) - rank(b) })
	return out
}

// outgoing are the addresses of our own open questions: a question from one of
// them is our own, redirected to us.
type outgoing struct {
	mu   sync.Mutex // guards all
	all  map[outgoingKey]bool
	told sync.Once
}

type outgoingKey struct {
	local netip.AddrPort
	tcp   bool
}

func newOutgoing() *outgoing { return &outgoing{all: map[outgoingKey]bool{}} }

func (o *outgoing) add(k outgoingKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[k] = true
}

func (o *outgoing) remove(k outgoingKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, k)
}

func (o *outgoing) has(k outgoingKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[k]
}
