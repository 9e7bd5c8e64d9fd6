package telemetry

import (
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/istio/peer"
)

// Request counts a request that is over. grpc says that it was a call of gRPC.
func (r *Reporter) Request(info *flow.Info, grpc bool) {
	h := info.HTTP
	s := r.subject(requests, info)
	s.grpc, s.code, s.flags = grpc, h.Status, info.Flags
	if status, ok := h.OwnGRPCStatus(); grpc && ok {
		s.status = status
	}
	s.values = r.values(info, h.Request, h.Response)
	all := r.find(s)
	all.add(requestsTotal, 1)
	end := info.End
	if end.IsZero() {
		end = time.Now()
	}
	all.record(requestDuration, uint64(max(end.Sub(info.Start).Milliseconds(), 0)))
	all.record(requestBytes, wireBytes(h.DownstreamWireReceived, h.RequestHeadBytes, info.Received.Load()))
	all.record(responseBytes, wireBytes(h.DownstreamWireSent, h.ResponseHeadBytes, info.Sent.Load()))
	r.countDefined(s.values)
}

// wireBytes are the bytes on the wire, or about so many where the codec does not
// count them.
func wireBytes(counted uint64, head int, body uint64) uint64 {
	if counted > 0 {
		return counted
	}
	return uint64(max(head, 0)) + body
}

// Call counts the messages of a call of gRPC while it goes on. The zero value
// has counted none.
type Call struct {
	counted        bool
	subject        subject
	sent, received uint64
}

// Messages counts the messages that have come since the last time: of the
// client, and of the server. Before the peer is known they wait, unless the call
// is over.
func (c *Call) Messages(r *Reporter, info *flow.Info, client, server uint64, over bool) {
	if !c.counted {
		if !over && !r.peerRead(info) {
			return
		}
		c.counted = true
		c.subject = r.subject(messages, info)
		c.subject.values = r.values(info, nil, nil)
	}
	all := r.find(c.subject) // anew each time: metrics that are not asked for are forgotten
	all.add(requestMessages, client-c.sent)
	all.add(responseMessages, server-c.received)
	c.sent, c.received = client, server
}

// peerRead reports that the peer has spoken, or will not.
func (r *Reporter) peerRead(info *flow.Info) bool {
	if r.cfg.Reporter == config.IstioSource {
		return info.UpstreamPeer != nil || info.NoUpstreamPeer
	}
	_, none := info.State(peer.NotFoundState)
	return info.DownstreamPeer != nil || none
}

// Connection counts one TCP connection. It is not safe for concurrent use.
type Connection struct {
	r              *Reporter
	counted        bool // it was counted as opened
	subject        subject
	sent, received uint64
}

// Connection is for a connection that has just begun.
func (r *Reporter) Connection() *Connection { return &Connection{r: r} }

// Report counts the connection as opened, once its peer is known or it is over,
// its bytes, and its end.
func (c *Connection) Report(info *flow.Info, over bool) {
	if !c.counted {
		if !over && !c.r.peerRead(info) {
			return
		}
		c.counted = true
		c.subject = c.r.subject(opened, info)
		c.subject.flags = info.Flags
		c.subject.values = c.r.values(info, nil, nil)
		c.of(opened).add(tcpOpened, 1)
	}
	received, sent := info.Received.Load(), info.Sent.Load()
	bytes := c.of(traffic)
	bytes.add(tcpReceived, received-c.received)
	bytes.add(tcpSent, sent-c.sent)
	c.received, c.sent = received, sent
	if over {
		c.of(closed).add(tcpClosed, 1)
		c.r.countDefined(c.subject.values)
	}
}

func (c *Connection) of(k kind) *series {
	s := c.subject
	s.kind = k
	return c.r.find(s)
}
