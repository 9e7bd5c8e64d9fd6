package xds

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Transport opens streams to one management server.
type Transport interface {
	// Open opens a stream of a gRPC method. It blocks until the stream is there,
	// and the stream lives until Close or the end of ctx.
	Open(ctx context.Context, method string) (Stream, error)
}

// Stream is one open stream. One goroutine may send while another receives.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
	// Close ends the stream, and whatever was opened for it.
	Close()
}

// GRPC is a Transport over connections of our own making.
type GRPC struct {
	// Dial connects to the server, TLS included.
	Dial func(ctx context.Context) (net.Conn, error)
	// Authority is the :authority of the requests. Envoy's is the cluster's
	// name.
	Authority string
}

const (
	// maxMessage bounds one answer. Ten thousand clusters of istiod are some
	// 20 MiB.
	maxMessage = 256 << 20
	// pingInterval keeps an idle stream alive and finds a dead one. A gRPC
	// server may end connections that ping more often than every 5 minutes
	// (keepalive.EnforcementPolicy).
	pingInterval = 5*time.Minute + 10*time.Second
	pingTimeout  = 20 * time.Second
	// dialTimeout bounds one try to connect, handshakes included.
	dialTimeout = 20 * time.Second
)

// Open implements Transport. Each stream has a connection of its own, so that a
// try to reconnect is one try to dial.
func (g *GRPC) Open(ctx context.Context, method string) (Stream, error) {
	conn, err := grpc.NewClient("passthrough:///"+g.Authority,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.Dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return grpcStream{stream, conn}, nil
}

type grpcStream struct {
	grpc.ClientStream
	conn *grpc.ClientConn
}

func (s grpcStream) Close() { s.conn.Close() }
