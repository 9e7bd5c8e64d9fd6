package xds

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// kind is the state of one type: what is subscribed to, what is accepted, and
// what of this stream is yet to be sent. All of it is guarded by Client.mu.
type kind struct {
	Type
	refs    map[string]int      // subscribed names, and how many want each
	known   map[string]*held    // accepted resources
	refused map[string]*refused // the last refused version, by name
	// expiring are those of known that have a TTL.
	expiring map[string]time.Time

	version string // sotw: of the last accepted answer, across streams

	// Of the stream.
	begun       bool            // the first request is sent
	nonce       string          // sotw: of the last answer
	subscribe   map[string]bool // delta: not sent yet
	unsubscribe map[string]bool // delta: not sent yet
	changed     bool            // sotw: the names are others than were sent
	acks        []ack           // not sent yet
	paused      int             // requests wait while it is not 0
	nackDue     time.Time       // a refusal is not sent before
	nackPause   time.Duration   // between the last two

	first     chan struct{} // closed after the first answer, or when it is not waited for any more
	firstOpen bool
	timer     *time.Timer // of FetchTimeout
	dirty     bool        // other than what is on disk
}

// held is an accepted resource.
type held struct {
	version string
	sum     [sha256.Size]byte
	body    *anypb.Any // nil unless there is a cache
}

// refused is a resource that was refused.
type refused struct {
	Refusal
	sum      [sha256.Size]byte
	nameless bool // it has no name, and stays no longer than the next answer
}

// ack is the answer to an answer.
type ack struct {
	nonce string
	err   *statuspb.Status // nil accepts
}

// Register makes t known. It must be before the first subscription to it.
func (c *Client) Register(t Type) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &kind{
		Type: t, refs: map[string]int{}, known: map[string]*held{}, refused: map[string]*refused{},
		expiring: map[string]time.Time{}, subscribe: map[string]bool{}, unsubscribe: map[string]bool{}, first: make(chan struct{}),
	}
	c.kinds[t.URL] = k
	c.order = append(c.order, k)
	slices.SortStableFunc(c.order, func(a, b *kind) int { return a.Rank - b.Rank })
}

// Subscribe wants resources of a registered type, or all with Wildcard. Each
// name that is wanted twice must be unwanted twice.
func (c *Client) Subscribe(typeURL string, names ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[typeURL]
	if k == nil {
		return fmt.Errorf("xDS type %q is not registered", typeURL)
	}
	begins := len(k.refs) == 0
	poke(c.stock)
	for _, name := range names {
		if k.refs[name]++; k.refs[name] == 1 {
			k.add(name)
		}
	}
	if begins {
		k.Stats.Begin()
		if c.running {
			c.await(k)
		}
	}
	c.signal()
	return nil
}

// Unsubscribe is the opposite of Subscribe. What is known of a name that
// nobody wants is forgotten; Apply is not told.
func (c *Client) Unsubscribe(typeURL string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[typeURL]
	if k == nil {
		return
	}
	for _, name := range names {
		switch k.refs[name] {
		case 0:
		case 1:
			k.drop(name)
		default:
			k.refs[name]--
		}
	}
	c.signal()
}

func (k *kind) add(name string) {
	// A name that was just unsubscribed is asked for again: what was known of
	// it is forgotten, and the server need not know that.
	delete(k.unsubscribe, name)
	k.subscribe[name] = true
	k.changed = true
}

func (k *kind) drop(name string) {
	delete(k.refs, name)
	if _, had := k.known[name]; had {
		k.dirty = true
	}
	delete(k.known, name)
	delete(k.refused, name)
	delete(k.expiring, name)
	delete(k.subscribe, name)
	if k.begun {
		k.unsubscribe[name] = true // of a name that the server does not know it takes no notice
	}
	k.changed = true
}

// wild says that the type is subscribed to as a whole.
func (k *kind) wild() bool { return k.refs[Wildcard] > 0 }

// wants says that a resource of that name is subscribed to.
func (k *kind) wants(name string) bool { return k.wild() || k.refs[name] > 0 }

// names are the subscribed names; none for the wildcard alone, as Envoy has it.
func (k *kind) names() []string {
	if k.wild() && len(k.refs) == 1 {
		return nil
	}
	return slices.Sorted(maps.Keys(k.refs))
}

// reopen forgets what was of the last stream.
func (k *kind) reopen() {
	k.begun, k.nonce, k.acks, k.changed = false, "", nil, false
	clear(k.subscribe)
	clear(k.unsubscribe)
	k.nackDue, k.nackPause = time.Time{}, 0
}

// First is closed after the first answer of a type, taken or refused, or when
// FetchTimeout has passed.
func (c *Client) First(typeURL string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[typeURL]
	if k == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	return k.first
}

// answered closes first.
func (k *kind) answered() {
	if k.timer != nil {
		k.timer.Stop()
	}
	if !k.firstOpen {
		k.firstOpen = true
		close(k.first)
	}
}

// await begins FetchTimeout, if somebody waits; mu is held.
func (c *Client) await(k *kind) {
	if k.FetchTimeout <= 0 || k.firstOpen || len(k.refs) == 0 || k.timer != nil {
		return
	}
	k.timer = time.AfterFunc(k.FetchTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !k.firstOpen {
			k.Stats.TimedOut()
			c.opts.Log.Warn("no answer within initial_fetch_timeout", "cluster", c.opts.Server, "type", k.URL)
			k.answered()
		}
	})
}

func (c *Client) stopTimers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	for _, k := range c.order {
		if k.timer != nil {
			k.timer.Stop()
		}
	}
}

// Pause holds the requests of some types until the function that it returns is
// called: what is subscribed to meanwhile goes out at once.
func (c *Client) Pause(typeURLs ...string) (resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held []*kind
	for _, url := range typeURLs {
		if k := c.kinds[url]; k != nil {
			k.paused++
			held = append(held, k)
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, k := range held {
			k.paused--
		}
		c.signal()
	}
}

// Refusals are the resources of a type whose last version was refused, by
// name.
func (c *Client) Refusals(typeURL string) []Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[typeURL]
	if k == nil {
		return nil
	}
	out := make([]Refusal, 0, len(k.refused))
	for _, name := range slices.Sorted(maps.Keys(k.refused)) {
		out = append(out, k.refused[name].Refusal)
	}
	return out
}

// Known is how many resources of a type are accepted.
func (c *Client) Known(typeURL string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kinds[typeURL]; k != nil {
		return len(k.known)
	}
	return 0
}
