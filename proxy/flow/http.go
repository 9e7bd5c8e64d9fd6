package flow

import (
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// HTTP is what is known of one request, beside what Info has for connections.
// In the Info of a request, Start and End are the request's, and Received and
// Sent count its body and the response's.
//
// It belongs to whoever holds the request's lock until End.
type HTTP struct {
	// Connection is the Info of the connection that the request came on, of
	// which only what is known when it begins may be read.
	Connection *Info
	// Protocol is of the downstream connection; Upstream of the one that the
	// last attempt went to, 0 if it got none.
	Protocol, Upstream codec.Protocol
	// Request is the request's head as filters and routing have left it, and
	// Response the head of what was answered; nil if there was none.
	Request, Response *message.Head
	// OriginalPath is the path before rewriting.
	OriginalPath                        string
	RequestTrailers, ResponseTrailers   message.Fields
	RequestHeadBytes, ResponseHeadBytes int
	// UpstreamHeadSent and UpstreamHeadReceived are of the last attempt's heads.
	UpstreamHeadSent, UpstreamHeadReceived int
	// Status is the response code, 0 if none was sent; Details are
	// RESPONSE_CODE_DETAILS.
	Status  int
	Details string
	// LocalReply says that the answer is ours, and not of the upstream;
	// LocalReplyBody is its body before formatting.
	LocalReply     bool
	LocalReplyBody string
	RequestID      string
	VirtualHost    string
	VirtualCluster string
	RouteName      string
	HealthCheck    bool // the request was answered as a health check
	// Attempts are how many times the request was sent or tried to.
	Attempts int
	// RouteMetadata is the metadata of the route, by namespace; nil if none.
	RouteMetadata map[string]*structpb.Struct
	// UpstreamFailure is who closed the upstream connection of the last failed
	// attempt, with what it had done before; nil if that is not why.
	UpstreamFailure *codec.End
	// UpstreamReused says that the last attempt's connection had had requests.
	UpstreamReused bool
	// UpstreamRequests is how many the last attempt's connection had had, with
	// this one.
	UpstreamRequests uint64
	UpstreamConnID   uint64

	// When things passed; zero if they did not. Rx is what comes to us.
	LastDownstreamRx, FirstUpstreamTx, LastUpstreamTx time.Time
	FirstUpstreamRx, LastUpstreamRx                   time.Time
	FirstUpstreamBodyRx                               time.Time
	FirstDownstreamTx, LastDownstreamTx               time.Time
	PoolReady                                         time.Time // the attempt had its connection
	// Bytes on the wire of the request's streams, heads included.
	DownstreamWireReceived, DownstreamWireSent uint64
	UpstreamWireReceived, UpstreamWireSent     uint64
}

// NewRequest is the Info of a request on the connection that i describes: what
// is downstream is the same, the rest is empty.
func (i *Info) NewRequest(start time.Time) *Info {
	r := &requestInfo{}
	out := &r.info
	out.ID, out.Start = i.ID, start
	out.Remote, out.DirectRemote, out.Local, out.DirectLocal = i.Remote, i.DirectRemote, i.Local, i.DirectLocal
	out.LocalRestored, out.UpstreamSource, out.UpstreamSocket = i.LocalRestored, i.UpstreamSource, i.UpstreamSocket
	out.ProxyHeader, out.TLVs = i.ProxyHeader, i.TLVs
	out.Listener, out.FilterChain = i.Listener, i.FilterChain
	out.TransportProtocol, out.SNI, out.ALPNs = i.TransportProtocol, i.SNI, i.ALPNs
	out.Downstream, out.HandshakeDone = i.Downstream, i.HandshakeDone
	for ns, values := range i.DynamicMetadata {
		for k, v := range values.GetFields() {
			out.SetMetadata(ns, k, v)
		}
	}
	for k, v := range i.FilterState {
		out.SetState(k, v)
	}
	out.DownstreamPeer, out.UpstreamPeer = i.DownstreamPeer, i.UpstreamPeer
	r.http.Connection = i
	out.HTTP = &r.http
	return out
}

// requestInfo is both in one allocation.
type requestInfo struct {
	info Info
	http HTTP
}
