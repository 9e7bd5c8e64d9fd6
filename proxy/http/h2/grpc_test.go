package h2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

// grpcServer answers as its requests ask.
type grpcServer struct {
	pb.UnimplementedTestServiceServer
	cancelled chan struct{}
}

func (s *grpcServer) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if e := r.GetResponseStatus(); e != nil {
		return nil, status.Error(codes.Code(e.GetCode()), e.GetMessage())
	}
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("echo", strings.Join(md.Get("echo"), ",")))
	grpc.SetTrailer(ctx, metadata.Pairs("echo-bin", strings.Join(md.Get("echo-bin"), ",")))
	if r.GetResponseSize() < 0 { // never
		<-ctx.Done()
		close(s.cancelled)
		return nil, ctx.Err()
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, r.GetResponseSize())}}, nil
}

func (s *grpcServer) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, p := range r.GetResponseParameters() {
			if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
				return err
			}
		}
	}
}

// noMistake fails if we ended the connection for what the peer did.
func noMistake(t *testing.T, end *codec.End) {
	if mistake := (*connError)(nil); errors.As(end.Err, &mistake) {
		t.Errorf("the connection ended: %v", end.Err)
	}
}

// grpcThroughBridge is a grpc-go client whose connection goes through a bridge
// to a grpc-go server.
func grpcThroughBridge(t *testing.T) (pb.TestServiceClient, *grpcServer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	impl := &grpcServer{cancelled: make(chan struct{})}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	pb.RegisterTestServiceServer(s, impl)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	cc, err := grpc.NewClient("passthrough:///x",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			up, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, err
			}
			near, down := tcpPair(t)
			cl := NewClient(relay.Plain(up), &pool{}, Options{})
			srv := NewServer(relay.Plain(down), &bridge{up: cl}, Options{})
			wg.Go(func() {
				noMistake(t, srv.Serve())
				cl.Close()
			})
			wg.Go(func() { noMistake(t, cl.Run()) })
			return near, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close(); s.Stop(); wg.Wait() })
	return pb.NewTestServiceClient(cc), impl
}

func TestBridgeCarriesGRPC(t *testing.T) {
	c, impl := grpcThroughBridge(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	t.Run("unary with metadata", func(t *testing.T) {
		var head, trail metadata.MD
		out := metadata.AppendToOutgoingContext(ctx, "echo", "a", "echo", "b", "echo-bin", "\x00\xff")
		r, err := c.UnaryCall(out, &pb.SimpleRequest{ResponseSize: 5}, grpc.Header(&head), grpc.Trailer(&trail))
		if err != nil || len(r.GetPayload().GetBody()) != 5 || head.Get("echo")[0] != "a,b" || trail.Get("echo-bin")[0] != "\x00\xff" {
			t.Errorf("got %v, %v, %v, %v", r, err, head, trail)
		}
	})
	t.Run("large messages", func(t *testing.T) {
		const size = 30 << 20
		r, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: size, Payload: &pb.Payload{Body: bytes.Repeat([]byte{1}, size)}})
		if err != nil || len(r.GetPayload().GetBody()) != size {
			t.Errorf("got %d bytes, %v", len(r.GetPayload().GetBody()), err)
		}
	})
	t.Run("a status in trailers only", func(t *testing.T) {
		_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 7, Message: "no\ttest ☺"}})
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "no\ttest ☺" {
			t.Errorf("got %v", err)
		}
		if _, err = c.EmptyCall(ctx, &pb.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a stream in both directions", func(t *testing.T) {
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2000 {
			size := int32(i * 13 % 40_000)
			err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, i)}, ResponseParameters: []*pb.ResponseParameters{{Size: size}}})
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Recv()
			if err != nil || len(r.GetPayload().GetBody()) != int(size) {
				t.Fatalf("message %d: got %d bytes, %v; want %d", i, len(r.GetPayload().GetBody()), err, size)
			}
		}
		s.CloseSend()
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				for range 10 {
					if _, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 3000}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("a deadline reaches the server", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := c.UnaryCall(short, &pb.SimpleRequest{ResponseSize: -1}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		select {
		case <-impl.cancelled:
		case <-ctx.Done():
			t.Error("the server's call goes on")
		}
	})
}
