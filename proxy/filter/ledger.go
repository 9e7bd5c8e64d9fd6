package filter

import (
	"sync"
	"time"

	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// accountEvery is how often the bytes of open connections reach the counters:
// Envoy's default stats_flush_interval.
const accountEvery = 5 * time.Second

// ledger brings the byte counts of open connections into the counters, so that
// a connection that lasts for days is seen before it ends. One timer serves
// all connections, and only while there are some.
type ledger struct {
	mu     sync.Mutex
	open   map[*entry]struct{} // guarded by mu
	timer  *time.Timer         // guarded by mu; nil while open is empty
	closed bool                // guarded by mu
}

// entry is one open connection.
type entry struct {
	info    *flow.Info
	rx, tx  *stats.Counter
	account func(received, sent uint64) // of the cluster

	rxSeen, txSeen, upRxSeen, upTxSeen uint64 // guarded by ledger.mu
}

func newLedger() *ledger { return &ledger{open: map[*entry]struct{}{}} }

// enter adds an open connection; leave counts what is left and takes it out.
func (l *ledger) enter(e *entry) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[e] = struct{}{}
	l.arm()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		e.post()
		delete(l.open, e)
		l.disarmIfEmpty()
	}
}

// arm is called with mu held.
func (l *ledger) arm() {
	if l.timer == nil && !l.closed && len(l.open) > 0 {
		l.timer = time.AfterFunc(accountEvery, l.postAll)
	}
}

// disarmIfEmpty is called with mu held.
func (l *ledger) disarmIfEmpty() {
	if l.timer != nil && len(l.open) == 0 {
		l.timer.Stop()
		l.timer = nil
	}
}

func (l *ledger) postAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := range l.open {
		e.post()
	}
	l.timer = nil
	l.arm()
}

// close ends the timer; connections that are still open are counted when they
// leave.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// post is called with the ledger's mu held.
func (e *entry) post() {
	e.rx.Add(since(&e.rxSeen, e.info.Received.Load()))
	e.tx.Add(since(&e.txSeen, e.info.Sent.Load()))
	e.account(since(&e.upRxSeen, e.info.UpstreamReceived.Load()), since(&e.upTxSeen, e.info.UpstreamSent.Load()))
}

func since(seen *uint64, now uint64) uint64 {
	d := now - *seen
	*seen = now
	return d
}
