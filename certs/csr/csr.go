// Package csr gets workload certificates from an authority that speaks Istio's
// protocol, istio.v1.auth.IstioCertificateService: a new key, a signing request
// for it, and an answer that is checked in every respect before it is used.
//
// Each request has its own connection. So the authority's roots, our token and
// our client certificate are those of now, and nothing that broke is used
// twice.
package csr

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"

	"outrider/certs/identity"
)

// The headers of a request (istiod: security/pkg/server/ca/authenticate).
const (
	authorization = "authorization"
	clusterID     = "clusterid"
	bearer        = "Bearer "
)

// maxAnswer bounds one answer: a bundle of a thousand roots is under 4 MiB.
const maxAnswer = 4 << 20

// ErrClosed says that the Client was closed.
var ErrClosed = errors.New("the client is closed")

// Client asks one authority for certificates. It implements identity.Issuer.
// All methods may be called by many goroutines.
type Client struct {
	opts   Options
	closed chan struct{}
	once   sync.Once // closes closed
	// distrusted says that the authority ended the last connection for the
	// certificate that it was shown: the next one has only the token, if there
	// is one. It may have forgotten who issued the certificate.
	distrusted atomic.Bool
}

var _ identity.Issuer = (*Client)(nil)

// New makes a client; it connects to nothing yet and reads no file. Its error
// names everything in opts that cannot work.
func New(opts Options) (*Client, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("authority %q: %w", opts.Address, err)
	}
	opts.Headers = maps.Clone(opts.Headers)
	return &Client{opts: opts, closed: make(chan struct{})}, nil
}

// Close ends the requests that are under way; later ones fail with ErrClosed.
func (c *Client) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Issue makes a key, has it certified, and checks the answer. It returns when
// that is done, Options.Timeout after the key is made, or when ctx ends. An
// error is an *Error.
func (c *Client) Issue(ctx context.Context) (*identity.Issued, error) {
	t := c.try()
	key, err := c.opts.Key.generate()
	if err != nil {
		return nil, t.failure(err)
	}
	ctx, stop := c.bounded(ctx)
	defer stop()
	issued, err := t.run(ctx, key)
	c.judge(t.proof, err)
	if err == nil {
		return issued, nil
	}
	awaitDeadline(ctx, err)
	if ctx.Err() != nil && (t.stage == StageConnect || t.stage == StageRequest) {
		err = &endedError{cause: context.Cause(ctx), ctx: ctx.Err(), last: err}
	}
	return nil, t.failure(err)
}

// try begins a request.
func (c *Client) try() try {
	return try{opts: &c.opts, stage: StagePrepare, distrusted: c.distrusted.Load()}
}

// judge notes whether it was our certificate that ended a connection.
func (c *Client) judge(p *proof, err error) {
	c.distrusted.Store(err != nil && isAlert(err) && p != nil && p.certificate != nil)
}

// deadlineSlack is how much earlier than we the authority may see our deadline
// pass, which gRPC tells it.
const deadlineSlack = time.Second

// awaitDeadline returns when ctx has ended, if err is the authority's word that
// our deadline has passed: it is the same deadline.
func awaitDeadline(ctx context.Context, err error) {
	deadline, ok := ctx.Deadline()
	if ok && status.Code(err) == codes.DeadlineExceeded && time.Until(deadline) < deadlineSlack {
		<-ctx.Done()
	}
}

// bounded is ctx with the time-out of one request, and with an end when the
// client is closed.
func (c *Client) bounded(ctx context.Context) (context.Context, func()) {
	timeout := fmt.Errorf("no answer within %s: %w", c.opts.Timeout, context.DeadlineExceeded)
	ctx, cancelTimeout := context.WithTimeoutCause(ctx, c.opts.Timeout, timeout)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c.closed:
			cancel(ErrClosed)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled); cancelTimeout(); <-done }
}

// try is one request, from what is gathered for it to the checked answer.
type try struct {
	opts  *Options
	stage Stage
	proof *proof         // what says who we are; nil until it is gathered
	clock identity.Clock // the authority's, once it is known
	// distrusted is the client's at the beginning.
	distrusted bool
}

// gather reads what says who we are.
func (t *try) gather() error {
	var err error
	if t.proof, err = gather(t.opts, time.Now()); err == nil && t.distrusted {
		t.proof.withhold()
	}
	return err
}

func (t *try) run(ctx context.Context, key crypto.Signer) (*identity.Issued, error) {
	req, err := t.request(key)
	if err != nil {
		return nil, err
	}
	if err := t.gather(); err != nil {
		return nil, err
	}
	channel, err := newChannel(t.opts, t.proof)
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	t.stage = StageConnect
	if err := channel.ready(ctx); err != nil {
		return nil, err
	}
	t.stage = StageRequest
	chain, when, err := t.call(ctx, channel.ClientConn, req)
	if err != nil {
		return nil, channel.explain(err)
	}
	t.stage = StageAnswer
	w := wanted{
		key: key, id: t.opts.ID, trustDomain: t.opts.TrustDomain, skew: t.opts.Skew, now: time.Now(),
		exchange: when, clock: t.clock,
	}
	if t.opts.Trust.Bundle != nil {
		w.known = t.opts.Trust.Bundle()
	}
	return w.check(chain)
}

func (t *try) request(key crypto.Signer) (*security.IstioCertificateRequest, error) {
	text, err := request(key, t.opts.ID)
	if err != nil {
		return nil, err
	}
	signer := structpb.NewStringValue(t.opts.CertSigner)
	return &security.IstioCertificateRequest{
		Csr: text, ValidityDuration: int64(t.opts.Lifetime / time.Second),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"CertSigner": signer}},
	}, nil
}

// call asks, and measures the authority's clock by whatever comes back.
func (t *try) call(ctx context.Context, conn *grpc.ClientConn, req *security.IstioCertificateRequest) ([]string, exchange, error) {
	ctx = t.outgoing(ctx)
	var header, trailer metadata.MD
	when := exchange{sent: time.Now()}
	answer, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, req, grpc.Header(&header), grpc.Trailer(&trailer))
	when.received = time.Now()
	t.clock = clockOfHeaders(when, header, trailer)
	if err != nil {
		return nil, when, t.refused(err)
	}
	return answer.GetCertChain(), when, nil
}
