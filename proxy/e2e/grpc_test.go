//go:build envoy

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcServer is gRPC's own test service. Its name is in each answer's header.
type grpcServer struct {
	testpb.UnimplementedTestServiceServer
	name string
	// ended is told of each stream that its client gave up.
	ended chan error
}

func startGRPC(t *testing.T, name string) (addr string, s *grpcServer) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = &grpcServer{name: name, ended: make(chan error, 100)}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	testpb.RegisterTestServiceServer(srv, s)
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	return ln.Addr().String(), s
}

func (s *grpcServer) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	grpc.SetHeader(ctx, metadata.Pairs("server", s.name, "x-server", s.name))
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetTrailer(ctx, metadata.Pairs("x-seen", strings.Join(md.Get("x-client"), ",")))
	if st := in.GetResponseStatus(); st.GetCode() != 0 {
		return nil, status.Error(codes.Code(st.GetCode()), st.GetMessage())
	}
	if in.GetFillUsername() { // asks to wait
		<-ctx.Done()
		s.ended <- ctx.Err()
		return nil, ctx.Err()
	}
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, in.GetResponseSize())}, Hostname: s.name}, nil
}

func (s *grpcServer) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, out testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range in.GetResponseParameters() {
		if err := out.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *grpcServer) StreamingInputCall(in testpb.TestService_StreamingInputCallServer) error {
	n := 0
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		n += len(m.GetPayload().GetBody())
	}
}

func (s *grpcServer) FullDuplexCall(both testpb.TestService_FullDuplexCallServer) error {
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			s.ended <- err
			return err
		}
		if st := m.GetResponseStatus(); st.GetCode() != 0 {
			return status.Error(codes.Code(st.GetCode()), st.GetMessage())
		}
		for _, p := range m.GetResponseParameters() {
			if err := both.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
				return err
			}
		}
	}
}

func dialGRPC(t *testing.T, addr string) testpb.TestServiceClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return testpb.NewTestServiceClient(cc)
}

func grpcBootstrap(servers ...string) string {
	var eps []string
	for _, s := range servers {
		host, port, _ := net.SplitHostPort(s)
		eps = append(eps, fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}", host, port))
	}
	return `
static_resources:
  listeners:` + hcm("in", "", `
- name: all
  domains: ["*"]
  routes:
  - {match: {prefix: /, headers: [{name: x-deny, present_match: true}]}, direct_response: {status: 403, body: {inline_string: "no, 100%"}}}
  - {match: {prefix: /, headers: [{name: x-nobody, present_match: true}]}, route: {cluster: nobody}}
  - {match: {prefix: /, grpc: {}}, route: {cluster: grpc, timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}, retry_policy: {retry_on: "connect-failure,refused-stream", num_retries: 3}}}
`) + `
  clusters:
  - name: grpc
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: grpc, endpoints: [{lb_endpoints: [` + strings.Join(eps, ", ") + `]}]}
` + indent(speaksHTTP2, 4) + `
  - {name: nobody, type: STATIC, connect_timeout: 1s}
`
}

// heard waits until the server knows that a client gave up.
func (s *grpcServer) heard(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Error("the server did not hear of it")
	}
}

// eachProxy runs a test against both proxies: what holds for gRPC through Envoy
// has to hold through outrider.
func eachProxy(t *testing.T, bootstrap func() string, f func(t *testing.T, r *running)) {
	for _, k := range kinds {
		t.Run(strings.ToLower(string(k)), func(t *testing.T) {
			f(t, start(t, k, t.TempDir(), bootstrap()).ready())
		})
	}
}

func TestGRPCCallsGoThrough(t *testing.T) {
	addr, srv := startGRPC(t, "one")
	eachProxy(t, func() string { return grpcBootstrap(addr) }, func(t *testing.T, r *running) {
		c := dialGRPC(t, r.addr("in"))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()

		t.Run("unary with metadata", func(t *testing.T) {
			var head, trail metadata.MD
			resp, err := c.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-client", "a"), &testpb.SimpleRequest{ResponseSize: 10}, grpc.Header(&head), grpc.Trailer(&trail))
			if err != nil || len(resp.GetPayload().GetBody()) != 10 || head.Get("x-server")[0] != "one" || trail.Get("x-seen")[0] != "a" {
				t.Errorf("%v %v %v %v", resp, err, head, trail)
			}
		})
		t.Run("large messages", func(t *testing.T) {
			in := &testpb.SimpleRequest{ResponseSize: 8 << 20, Payload: &testpb.Payload{Body: make([]byte, 8<<20)}}
			resp, err := c.UnaryCall(ctx, in)
			if err != nil || len(resp.GetPayload().GetBody()) != 8<<20 {
				t.Errorf("%d bytes, %v", len(resp.GetPayload().GetBody()), err)
			}
		})
		t.Run("server streaming", func(t *testing.T) {
			in := &testpb.StreamingOutputCallRequest{}
			for i := range 200 {
				in.ResponseParameters = append(in.ResponseParameters, &testpb.ResponseParameters{Size: int32(i * 100)})
			}
			s, err := c.StreamingOutputCall(ctx, in)
			n := 0
			for err == nil {
				var m *testpb.StreamingOutputCallResponse
				if m, err = s.Recv(); err == nil && len(m.GetPayload().GetBody()) == n*100 {
					n++
				}
			}
			if !errors.Is(err, io.EOF) || n != 200 {
				t.Errorf("%d messages, %v", n, err)
			}
		})
		t.Run("client streaming", func(t *testing.T) {
			s, err := c.StreamingInputCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 200 {
				if err := s.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 5000)}}); err != nil {
					t.Fatal(err)
				}
			}
			resp, err := s.CloseAndRecv()
			if err != nil || resp.GetAggregatedPayloadSize() != 200*5000 {
				t.Errorf("%v %v", resp, err)
			}
		})
		t.Run("both streaming, in turn", func(t *testing.T) {
			s, err := c.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if err := s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: int32(i)}}}); err != nil {
					t.Fatal(err)
				}
				if m, err := s.Recv(); err != nil || len(m.GetPayload().GetBody()) != i {
					t.Fatalf("message %d: %v %v", i, m, err)
				}
			}
			s.CloseSend()
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the end is %v", err)
			}
		})
		t.Run("status and message", func(t *testing.T) {
			_, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 9, Message: "ä % \n text"}})
			if st := status.Convert(err); st.Code() != 9 || st.Message() != "ä % \n text" {
				t.Errorf("%v", err)
			}
		})
		t.Run("unknown method", func(t *testing.T) {
			if _, err := c.UnimplementedCall(ctx, &testpb.Empty{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("%v", err)
			}
		})
		t.Run("deadline", func(t *testing.T) {
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			if _, err := c.UnaryCall(short, &testpb.SimpleRequest{FillUsername: true}); status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Unavailable {
				t.Errorf("%v", err)
			}
			// The server has the deadline too, and may be the first to end.
			srv.heard(t)
		})
		t.Run("cancelled by the client", func(t *testing.T) {
			can, cancel := context.WithCancel(ctx)
			s, err := c.FullDuplexCall(can)
			if err != nil {
				t.Fatal(err)
			}
			s.Send(&testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}}})
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := s.Recv(); status.Code(err) != codes.Canceled {
				t.Errorf("%v", err)
			}
			srv.heard(t)
		})
		t.Run("answers of the proxy are gRPC", func(t *testing.T) {
			_, err := c.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-deny", "1"), &testpb.SimpleRequest{})
			if st := status.Convert(err); st.Code() != codes.PermissionDenied || st.Message() != "no, 100%" {
				t.Errorf("denied: %v", err)
			}
			_, err = c.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-nobody", "1"), &testpb.SimpleRequest{})
			if st := status.Convert(err); st.Code() != codes.Unavailable || st.Message() != "no healthy upstream" {
				t.Errorf("nobody: %v", err)
			}
		})
	})
}

// One client connection, many servers: each call goes to another.
func TestGRPCCallsOfOneConnectionAreBalanced(t *testing.T) {
	a, _ := startGRPC(t, "a")
	b, _ := startGRPC(t, "b")
	eachProxy(t, func() string { return grpcBootstrap(a, b) }, func(t *testing.T, r *running) {
		c := dialGRPC(t, r.addr("in"))
		seen := map[string]int{}
		for range 100 {
			resp, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
			if err != nil {
				t.Fatal(err)
			}
			seen[resp.GetHostname()]++
		}
		if seen["a"] < 40 || seen["b"] < 40 {
			t.Errorf("of 100 calls: %v", seen)
		}
	})
}

// A server that goes away says so with GOAWAY; no call is lost while there is
// another.
func TestNoGRPCCallIsLostWhenAServerStopsGracefully(t *testing.T) {
	a, _ := startGRPC(t, "a")
	for _, k := range kinds {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, k, t.TempDir(), grpcBootstrap(a, ln.Addr().String())).ready()
		srv := grpc.NewServer()
		testpb.RegisterTestServiceServer(srv, &grpcServer{name: "b", ended: make(chan error, 100)})
		go srv.Serve(ln)
		c := dialGRPC(t, r.addr("in"))
		stopped := make(chan struct{})
		go func() { time.Sleep(200 * time.Millisecond); srv.GracefulStop(); close(stopped) }()
		lost := 0
		for begin := time.Now(); time.Since(begin) < 400*time.Millisecond; {
			if _, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
				lost++
				t.Log(err)
			}
		}
		<-stopped
		if lost > 0 {
			t.Errorf("%s: %d calls were lost", k, lost)
		}
	}
}
