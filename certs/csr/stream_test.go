package csr

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const streamMethod = "/test.Service/Stream"

// streams serves streams that handle answers, at an authority's address.
func streams(t *testing.T, a *authority, handle func(grpc.ServerStream) error) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{a.cert}, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return handle(s) }))
	l := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	a.address = l.Addr().String()
}

// echo sends what it receives, after the token that came.
func echo(s grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	for {
		m := &wrapperspb.StringValue{}
		if err := s.RecvMsg(m); err != nil {
			return nil //nolint:nilerr // the client has ended it
		}
		m.Value = strings.Join(md.Get(authorization), ",") + " " + m.Value
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

const maxTest = 1 << 10

func openStream(t *testing.T, c *Client) (*Stream, error) {
	t.Helper()
	s, err := c.Stream(t.Context(), streamMethod, maxTest)
	if err == nil {
		t.Cleanup(s.Close)
	}
	return s, err
}

func ask(s *Stream, text string) (string, error) {
	if err := s.SendMsg(wrapperspb.String(text)); err != nil {
		return "", err
	}
	m := &wrapperspb.StringValue{}
	err := s.RecvMsg(m)
	return m.GetValue(), err
}

func TestEachStreamHasTheTokenOfItsBeginning(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	streams(t, a, echo)
	path := writeFile(t, "", "first")
	c := a.client(func(o *Options) { o.TokenPath = path })
	first, err := openStream(t, c)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, "second")
	second, err := openStream(t, c)
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[*Stream]string{first: "Bearer first hello", second: "Bearer second hello"} {
		if got, err := ask(s, "hello"); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

func TestTheErrorOfAStreamHasNoTokenInIt(t *testing.T) {
	const token = "a-token-of-some-length"
	a := newAuthority(t, tls.NoClientCert)
	streams(t, a, func(grpc.ServerStream) error {
		return status.Errorf(codes.Unauthenticated, "token %s is not good", token)
	})
	c := a.client(func(o *Options) { o.TokenPath = writeFile(t, "", token) })
	s, err := openStream(t, c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(s, "hello")
	if errors.Is(err, io.EOF) { // of the send: the receiver knows why
		err = s.RecvMsg(&wrapperspb.StringValue{})
	}
	e := failed(t, err, StageRequest, Ours, codes.Unauthenticated)
	if strings.Contains(e.Error(), token) || !strings.Contains(e.Error(), `token [token] is not good`) || !strings.Contains(e.Error(), "we sent the token of ") {
		t.Errorf("%v", e)
	}
}

func TestAStreamToNobodyFailsInTime(t *testing.T) {
	l := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")) // which never accepts
	defer l.Close()
	a := &authority{t: t, root: newRoot(t, "mesh root"), address: l.Addr().String()}
	_, err := openStream(t, a.client(func(o *Options) { o.Timeout = 50 * time.Millisecond }))
	failed(t, err, StageConnect, Network, codes.DeadlineExceeded)
	_, err = openStream(t, a.client(func(o *Options) { o.TokenPath = writeFile(t, "", "two words") }))
	failed(t, err, StagePrepare, Ours, codes.FailedPrecondition)
	_, err = openStream(t, a.client(func(o *Options) { o.Trust = Trust{RootFile: filepath.Join(t.TempDir(), "none")} }))
	failed(t, err, StagePrepare, Ours, codes.FailedPrecondition)
}

func TestAStreamEndsWithItsContextItsClientAndItself(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	streams(t, a, echo)
	for name, end := range map[string]func(c *Client, s *Stream, cancel func()){
		"context": func(_ *Client, _ *Stream, cancel func()) { cancel() },
		"client":  func(c *Client, _ *Stream, _ func()) { _ = c.Close() },
		"stream":  func(_ *Client, s *Stream, _ func()) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c := a.client()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := c.Stream(ctx, streamMethod, maxTest)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := ask(s, "hello"); err != nil {
				t.Fatal(err)
			}
			end(c, s, cancel)
			if err := s.RecvMsg(&wrapperspb.StringValue{}); status.Code(err) != codes.Canceled {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAMessageThatIsTooLongEndsTheStream(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	streams(t, a, echo)
	s, err := openStream(t, a.client())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(s, strings.Repeat("x", maxTest)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}
