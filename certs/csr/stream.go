package csr

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// A stream that is idle is kept alive, and found out when it is dead. istiod
// ends connections that ping more often than every 30 s, gRPC's servers by
// default those that do so every 5 minutes.
const (
	streamPing        = 5*time.Minute + 10*time.Second
	streamPingTimeout = 20 * time.Second
)

// Stream is a stream of another of the authority's services: istiod is a
// workload's control plane, too. One goroutine may send while another
// receives.
type Stream struct {
	client  *Client
	stream  grpc.ClientStream
	channel *channel
	try     try
	cancel  context.CancelFunc
	ended   <-chan struct{} // closed when nobody waits for the client's end any more
}

// Stream opens a stream of a gRPC method on a connection of its own, with the
// same proof of who we are as a request for a certificate; all of it is read
// anew. It returns when the connection stands, after Options.Timeout, or when
// ctx ends; the stream lives until its Close, the client's, or the end of ctx.
// One message from the authority has at most maxMessage bytes. Whether the
// authority takes our proof only the first message tells, or RecvMsg's error.
// An error is an *Error.
func (c *Client) Stream(ctx context.Context, method string, maxMessage int) (*Stream, error) {
	s := &Stream{client: c, try: c.try()}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	ended := make(chan struct{})
	s.ended = ended
	go func() {
		defer close(ended)
		select {
		case <-c.closed:
			s.cancel()
		case <-ctx.Done():
		}
	}()
	desc := &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
	var err error
	s.stream, err = s.channel.NewStream(s.try.outgoing(ctx), desc, method, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		err = s.failure(err)
		s.Close()
		return nil, err
	}
	return s, nil
}

// connect gathers the proof and connects. An error is an *Error.
func (s *Stream) connect(ctx context.Context) error {
	ctx, stop := s.client.bounded(ctx)
	defer stop()
	err := s.try.gather()
	if err == nil {
		err = s.await(ctx)
	}
	if err == nil {
		return nil
	}
	s.client.judge(s.try.proof, err)
	return s.try.failure(err)
}

// await makes the connection and waits until it stands.
func (s *Stream) await(ctx context.Context) error {
	var err error
	s.channel, err = newChannel(s.try.opts, s.try.proof, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: streamPing, Timeout: streamPingTimeout}))
	if err != nil {
		return err
	}
	s.try.stage = StageConnect
	if err := s.channel.ready(ctx); err != nil {
		s.channel.Close()
		if ctx.Err() != nil {
			err = &endedError{cause: context.Cause(ctx), ctx: ctx.Err(), last: err}
		}
		return err
	}
	s.try.stage = StageRequest
	return nil
}

// outgoing is ctx with the headers of a request.
func (t *try) outgoing(ctx context.Context) context.Context {
	for name, value := range t.opts.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	if t.opts.ClusterID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, clusterID, t.opts.ClusterID)
	}
	if value, ok := t.proof.bearer(); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, authorization, bearer+value)
	}
	return ctx
}

// failure is the error of a stream, without the token in it.
func (s *Stream) failure(err error) error {
	err = s.channel.explain(s.try.refused(err))
	s.client.judge(s.try.proof, err)
	return s.try.failure(err)
}

// SendMsg sends a message. io.EOF says that the stream is over: RecvMsg knows
// why.
func (s *Stream) SendMsg(m any) error {
	err := s.stream.SendMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		return s.failure(err)
	}
	return err
}

// RecvMsg receives a message. io.EOF says that the authority has ended the
// stream without an error.
func (s *Stream) RecvMsg(m any) error {
	err := s.stream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		return s.failure(err)
	}
	return err
}

// Close ends the stream and its connection.
func (s *Stream) Close() {
	s.cancel()
	s.channel.Close()
	<-s.ended
}
