package cluster

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// Conn is a connection to a host, ready for application bytes. The embedded
// Conn is what to relay on: where there is no TLS, a TCP socket that the
// kernel can splice. Who has the Conn must Close it, not the embedded one.
type Conn struct {
	relay.Conn
	cluster *Cluster
	holder  *Cluster // who counts it as a user (Cluster.hold)
	host    *Host
	state   *tlsmux.State
	start   time.Time
	// requests says that it is for requests, high of which priority.
	requests, high bool

	byPeer atomic.Bool
	once   sync.Once
	err    error // of the close
}

// ReadLazy is that of the embedded connection (relay.Lazy).
func (c *Conn) ReadLazy(b relay.Buffer) (int, error) { return relay.ReadLazy(c.Conn, b) }

// Host is the other end.
func (c *Conn) Host() *Host { return c.host }

// Cluster is the cluster that the connection is of.
func (c *Conn) Cluster() *Cluster { return c.cluster }

// State is the TLS state, nil for plaintext.
func (c *Conn) State() *tlsmux.State { return c.state }

// Metadata is the endpoint's metadata by namespace; nil if none.
func (c *Conn) Metadata() map[string]*structpb.Struct { return c.host.Metadata() }

// Account adds to the cluster's byte counters: application bytes that were
// received from the host and sent to it.
func (c *Conn) Account(received, sent uint64) {
	t := c.cluster.traffic()
	t.rxBytes.Add(received)
	t.txBytes.Add(sent)
}

// EndedByPeer says that it was the host that ended the connection; without
// it, Close counts it as ended by us.
func (c *Conn) EndedByPeer() { c.byPeer.Store(true) }

// Close closes the connection and counts it out; a second call changes
// nothing.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.err = c.Conn.Close()
		c.host.conns.remove(c)
		c.cluster.breakerOf(c.high).cx.release()
		c.cluster.closed(c.host, c.start, ending{established: !c.requests, byPeer: c.byPeer.Load()})
		c.holder.release()
	})
	return c.err
}

// connSet are the connections that a change of health may close.
type connSet struct {
	mu    sync.Mutex
	conns map[*Conn]struct{} // guarded by mu
}

func (s *connSet) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// closeAll closes the sockets, beneath TLS so that nothing is written that
// could block; whoever relays on them sees that and closes the Conn.
func (s *connSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if over, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
			over.NetConn().Close()
		} else {
			c.Conn.Close()
		}
	}
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
