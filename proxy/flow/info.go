// Package flow is the vocabulary of one connection's path: who is at each end,
// what was decided on the way, how it ended. Every stage writes its part of
// the Info; the access log, the stats and explain read it.
package flow

import (
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/istio/peer"
	"outrider/tlsmux"
)

// Addr is one end of a connection: an IP and port, or a unix socket's path.
type Addr struct {
	netip.AddrPort        // zero for a unix socket
	Path           string // "" for IP; may be "" for an unnamed unix socket
}

// IsIP reports whether a is an IP and port.
func (a Addr) IsIP() bool { return a.AddrPort.IsValid() }

// String is Envoy's form: 10.0.0.1:80, [::1]:80, or the path of the socket.
func (a Addr) String() string {
	if a.IsIP() {
		return a.AddrPort.String()
	}
	return a.Path
}

// TLV is a type and a value of a PROXY header.
type TLV struct {
	Type  byte
	Value []byte
}

// Source is an address to connect from that need not be of this machine
// (Envoy: original_src).
type Source struct {
	Addr netip.AddrPort // port 0: any
	Mark uint32         // SO_MARK, by which the answers find their way back; 0: none
}

// Info is what is known of one connection (Envoy: StreamInfo). It belongs to
// the connection's own goroutine until End; only the atomic fields may be
// touched by others.
type Info struct {
	ID    uint64 // Envoy's connection ID; counts up from 1
	Start time.Time
	End   time.Time // set when the connection has ended

	// Downstream addresses. Remote is the client as restored by
	// proxy_protocol, DirectRemote the peer of the socket; Local is the
	// destination as restored by original_dst or proxy_protocol, DirectLocal
	// the socket's own.
	Remote, DirectRemote, Local, DirectLocal Addr
	// LocalRestored says that Local is an original destination.
	LocalRestored bool

	// UpstreamSource is from where to connect upstream; nil leaves it to the
	// cluster.
	UpstreamSource *Source
	// UpstreamSocket, if there is one, is told of each TCP socket before it
	// connects upstream, and to where; from any goroutine. Those from
	// UpstreamSource are left out.
	UpstreamSocket func(to netip.AddrPort, socket syscall.RawConn)

	// ProxyHeader says that the client sent a PROXY header, and TLVs are those
	// that may go on to the upstream's.
	ProxyHeader bool
	TLVs        []TLV

	Listener    string // name
	FilterChain string // name; "" before one is chosen or if it has none

	// What was sniffed; TransportProtocol is "tls" or "raw_buffer".
	TransportProtocol string
	SNI               string
	ALPNs             []string // as offered, in the client's order

	// Downstream is the TLS state; nil for plaintext.
	Downstream *tlsmux.State
	// DownstreamFailure is the reason of a transport failure, "" if none.
	DownstreamFailure string
	HandshakeDone     time.Time // zero without TLS

	// Upstream part, of the last attempt.
	Route           string
	UpstreamCluster string
	// UpstreamClusterStat is the cluster's alt_stat_name, "" if it has none.
	UpstreamClusterStat string
	UpstreamHost        Addr // the endpoint; zero if none was chosen
	// UpstreamHostname is the endpoint's host name, "" if it has none.
	UpstreamHostname string
	UpstreamLocal    Addr
	Upstream         *tlsmux.State // nil for plaintext
	UpstreamFailure  string        // transport failure reason, "" if none
	UpstreamAttempts int
	// UpstreamConnected is when the upstream connection (with TLS) was ready.
	UpstreamConnected time.Time
	// UpstreamDial and UpstreamDialed are the begin and the end of the last
	// connect, without TLS; zero if there was none.
	UpstreamDial, UpstreamDialed time.Time
	// ClusterMetadata and UpstreamMetadata are those of the cluster and of the
	// endpoint, by namespace; nil if none.
	ClusterMetadata, UpstreamMetadata map[string]*structpb.Struct
	// TransportSocketMatch is the name of the transport_socket_matches entry
	// that was chosen, "" if none.
	TransportSocketMatch string

	// Application bytes: Received from the client, Sent to it. UpstreamSent
	// and UpstreamReceived count the same at the other side.
	Received, Sent, UpstreamSent, UpstreamReceived atomic.Uint64

	Flags ResponseFlags
	// TerminationDetails is CONNECTION_TERMINATION_DETAILS, "" if none.
	TerminationDetails string
	// LocalCloseReason is DOWNSTREAM_LOCAL_CLOSE_REASON: why we closed the
	// downstream connection, "" if we did not.
	LocalCloseReason string

	// DownstreamReset and UpstreamReset tell how each side's connection was
	// reset, if it was (Envoy: detected close type).
	DownstreamReset, UpstreamReset Reset

	// HTTP is set if the Info is of a request, not of a connection.
	HTTP *HTTP

	// DynamicMetadata is by namespace (Envoy: dynamicMetadata); nil if none.
	DynamicMetadata map[string]*structpb.Struct
	// FilterState is by object name, as text (Envoy: filterState); nil if none.
	// Ask State, which knows the peers too.
	FilterState map[string]string
	// DownstreamPeer and UpstreamPeer are what the workloads at the ends say of
	// themselves (Istio's metadata exchange); nil if nothing.
	DownstreamPeer, UpstreamPeer *peer.Peer
	// NoUpstreamPeer says that there was an exchange with the upstream, and the
	// peer said nothing.
	NoUpstreamPeer bool
}

// Reset is how a TCP connection was reset.
type Reset uint8

const (
	NotReset Reset = iota // closed in order
	ResetByPeer
	ResetByUs
)

// String is Envoy's name of the close type.
func (r Reset) String() string {
	switch r {
	case ResetByPeer:
		return "RemoteReset"
	case ResetByUs:
		return "LocalReset"
	default:
		return "Normal"
	}
}

// SetMetadata puts one value into the dynamic metadata.
func (i *Info) SetMetadata(namespace, key string, v *structpb.Value) {
	if i.DynamicMetadata == nil {
		i.DynamicMetadata = map[string]*structpb.Struct{}
	}
	s := i.DynamicMetadata[namespace]
	if s == nil {
		s = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		i.DynamicMetadata[namespace] = s
	}
	s.Fields[key] = v
}

// SetState puts one object into the filter state.
func (i *Info) SetState(name, value string) {
	if i.FilterState == nil {
		i.FilterState = map[string]string{}
	}
	i.FilterState[name] = value
}

// State is an object of the filter state: one that was set, or a peer under one
// of Istio's names for it.
func (i *Info) State(name string) (string, bool) {
	if v, ok := i.FilterState[name]; ok {
		return v, true
	}
	if p := i.PeerState(name); p != nil {
		return p.Text(), true
	}
	return "", false
}

// PeerState is the peer that name is the filter state object of; nil if none
// is.
func (i *Info) PeerState(name string) *peer.Peer {
	switch name {
	case peer.DownstreamState, peer.WASMPrefix + peer.DownstreamState, peer.DownstreamState + peer.ObjectSuffix:
		return i.DownstreamPeer
	case peer.UpstreamState, peer.WASMPrefix + peer.UpstreamState, peer.UpstreamState + peer.ObjectSuffix:
		return i.UpstreamPeer
	}
	return nil
}
