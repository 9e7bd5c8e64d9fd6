package h2

import (
	"net"
	"sync"
	"testing"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// tcpPair are both ends of a TCP connection.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// asSide is nc as a connection of the relay's kind.
func asSide(nc net.Conn) relay.Conn {
	if c, ok := nc.(relay.Conn); ok {
		return c
	}
	return relay.Plain(nc)
}

// bridge is the smallest proxy: each request of a server goes to one client.
type bridge struct {
	up   codec.Client
	idle func()
}

func (b *bridge) Request(s codec.Sender) codec.Receiver {
	l := &link{b: b}
	l.down.to = s
	l.down.link, l.up.link = l, l
	l.down.request = true
	return &l.down
}

func (b *bridge) Idle() {
	if b.idle != nil {
		b.idle()
	}
}

// link is one request on its way. Each half is the receiver of one stream, and
// knows the sender of the same stream (to) and passes on to the other half's.
type link struct {
	b        *bridge
	down, up half
}

type half struct {
	link    *link
	request bool
	mu      sync.Mutex
	to      codec.Sender // of the stream that this half receives from
}

func (h *half) other() *half {
	if h.request {
		return &h.link.up
	}
	return &h.link.down
}

func (h *half) OnHead(m *message.Head, end bool) {
	if h.request {
		up, err := h.link.b.up.Open(&h.link.up)
		if err != nil {
			m.Release()
			h.to.Reset(codec.Refused)
			return
		}
		h.link.up.to = up
	}
	h.other().to.SendHead(m, end)
	m.Release()
}

func (h *half) OnData(p []byte, end bool) {
	if n := h.other().to.SendData(p, end); n > 0 {
		h.to.Consumed(n)
	}
}

func (h *half) OnTrailers(t message.Fields) { h.other().to.SendTrailers(t) }

func (h *half) OnReset(r codec.Reset) {
	if to := h.other().to; to != nil {
		reason := r.Reason
		if reason == codec.Closed || reason == codec.RemoteOther {
			reason = codec.Cancel
		}
		to.Reset(reason)
	}
}

// OnGone is of what this half's sender has sent, which came from the other.
func (h *half) OnGone(n int) { h.other().to.Consumed(n) }

// pool takes a client's notices.
type pool struct {
	mu      sync.Mutex
	freed   int
	drained int
	changed func()
}

func (p *pool) Freed(codec.Client) {
	p.mu.Lock()
	p.freed++
	p.mu.Unlock()
	if p.changed != nil {
		p.changed()
	}
}

func (p *pool) Drained(codec.Client) {
	p.mu.Lock()
	p.drained++
	p.mu.Unlock()
	if p.changed != nil {
		p.changed()
	}
}

// startBridge puts a bridge between two connections, and returns how both ended.
func startBridge(t testing.TB, down, up net.Conn, o Options) (ends func() (server, client *codec.End), srv codec.Server, cl codec.Client) {
	t.Helper()
	cl = NewClient(asSide(up), &pool{}, o)
	srv = NewServer(asSide(down), &bridge{up: cl}, o)
	se, ce := make(chan *codec.End, 1), make(chan *codec.End, 1)
	go func() { se <- srv.Serve(); cl.Close() }()
	go func() { ce <- cl.Run() }()
	return func() (*codec.End, *codec.End) { return <-se, <-ce }, srv, cl
}
