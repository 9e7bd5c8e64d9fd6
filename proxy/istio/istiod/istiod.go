// Package istiod is the way to istiod without Istio's agent: the stream of its
// configuration, with the proof of who the workload is, and the reports of the
// workload's health.
package istiod

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
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
	client      *csr.Client
	certificate func() (*tls.Certificate, error)

	mu sync.Mutex
	// distrusted says that istiod ended the last connection for the
	// certificate that it was shown: the next one has only the token. Guarded
	// by mu.
	distrusted bool
	current    *stream // guarded by mu; nil while there is none
	report     *Report // guarded by mu; the last one, nil before the first
}

var _ xds.Transport = (*Transport)(nil)

// New makes a transport to the istiod that opts name; it connects to nothing
// yet. opts.Certificate is asked for each stream; what it gives is shown beside
// the token.
func New(opts csr.Options) (*Transport, error) {
	t := &Transport{certificate: opts.Certificate}
	if opts.Certificate != nil {
		opts.Certificate = t.shown
	}
	var err error
	t.client, err = csr.New(opts)
	return t, err
}

// shown is the certificate to show, nil for none.
func (t *Transport) shown() (*tls.Certificate, error) {
	t.mu.Lock()
	distrusted := t.distrusted
	t.mu.Unlock()
	if distrusted {
		return nil, nil
	}
	return t.certificate()
}

// Open opens a stream of a gRPC method (xds.Transport).
func (t *Transport) Open(ctx context.Context, method string) (xds.Stream, error) {
	raw, err := t.client.Stream(ctx, method, maxMessage)
	if err != nil {
		t.judge(err)
		return nil, err
	}
	s := &stream{raw: raw, transport: t}
	t.mu.Lock()
	t.current = s
	t.mu.Unlock()
	return s, nil
}

// judge notes whether it was the certificate that istiod did not take: it has
// ended TLS with an alert. Any other end gives the certificate another chance.
func (t *Transport) judge(err error) {
	var op *net.OpError
	alert := errors.As(err, &op) && op.Op == "remote error"
	t.mu.Lock()
	defer t.mu.Unlock()
	t.distrusted = alert && !t.distrusted
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
func (s *stream) RecvMsg(m any) error {
	err := s.raw.RecvMsg(m)
	if err != nil {
		s.transport.judge(err)
	}
	return err
}

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
