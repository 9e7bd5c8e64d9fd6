// Package istiod is the way to istiod without Istio's agent: the stream of its
// configuration, with the proof of who the workload is, and the reports of the
// workload's health.
package istiod

import (
	"context"
	"sync"

	"outrider/certs/csr"
	"outrider/proxy/xds"
)

// maxMessage bounds one answer. Ten thousand clusters are some 20 MiB.
const maxMessage = 256 << 20

// Transport opens streams to istiod. Each has a connection of its own, whose
// roots, token and client certificate are read anew. It implements
// xds.Transport.
type Transport struct {
	client *csr.Client

	mu      sync.Mutex
	current *stream // guarded by mu; nil while there is none
	report  *Report // guarded by mu; the last one, nil before the first
}

var _ xds.Transport = (*Transport)(nil)

// New makes a transport to the istiod that opts name; it connects to nothing
// yet. opts.Certificate is asked for each stream; what it gives is shown beside
// the token.
func New(opts csr.Options) (*Transport, error) {
	client, err := csr.New(opts)
	if err != nil {
		return nil, err
	}
	return &Transport{client: client}, nil
}

// Open opens a stream of a gRPC method (xds.Transport).
func (t *Transport) Open(ctx context.Context, method string) (xds.Stream, error) {
	raw, err := t.client.Stream(ctx, method, maxMessage)
	if err != nil {
		return nil, err
	}
	s := &stream{raw: raw, transport: t}
	t.mu.Lock()
	t.current = s
	t.mu.Unlock()
	return s, nil
}

// stream is one stream, on which reports go out beside the requests.
type stream struct {
	raw       *csr.Stream
	transport *Transport

	sending sync.Mutex // one message at a time; taken before Transport.mu
	delta   bool       // guarded by sending; which protocol it speaks
	begun   bool       // guarded by sending; the first request, with the node, is out
}

// SendMsg sends a request, and after the first one the report that there is:
// istiod forgets reports with their stream.
func (s *stream) SendMsg(m any) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.raw.SendMsg(m); err != nil || s.begun {
		return err
	}
	s.begun, s.delta = true, isDelta(m)
	if r := s.transport.last(); r != nil {
		return s.raw.SendMsg(r.message(s.delta))
	}
	return nil
}

// RecvMsg receives an answer.
func (s *stream) RecvMsg(m any) error { return s.raw.RecvMsg(m) }

// Close ends the stream and its connection.
func (s *stream) Close() {
	t := s.transport
	t.mu.Lock()
	if t.current == s {
		t.current = nil
	}
	t.mu.Unlock()
	s.raw.Close()
}
