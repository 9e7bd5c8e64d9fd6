// Package sds is the client of Envoy's Secret Discovery Service over gRPC: one
// stream for each secret, as Envoy has it.
package sds

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// secretType is the type_url of a secret.
const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Options are how a Client reaches its servers.
type Options struct {
	// Dial connects to an endpoint of a cluster, transport socket included.
	Dial func(ctx context.Context, cluster string) (net.Conn, error)
	// Node goes out with the first request of each stream, and with each
	// unless the source says set_node_on_first_message_only.
	Node *corev3.Node
	// Decode reads one resource. version is what the server calls it. Its
	// error is the text of the NACK.
	Decode func(resource *anypb.Any, version, from string) (*certs.Secret, error)
}

// Client feeds handles from gRPC sources.
type Client struct{ opts Options }

// NewClient makes a client; it connects to nothing yet.
func NewClient(opts Options) *Client { return &Client{opts} }

// The waits between streams: Envoy's default for gRPC subscriptions, jittered
// over the whole of it.
const (
	firstWait = 500 * time.Millisecond
	maxWait   = 30 * time.Second
)

// maxMessage bounds one answer: a bundle of a thousand roots is under 4 MiB.
const maxMessage = 16 << 20

// Feed subscribes to h's secret until ctx ends. A stream that ends is opened
// again, and what is current stays so.
func (c *Client) Feed(ctx context.Context, h *certs.Handle) {
	conn, err := c.connect(h.Ref().Source.Cluster)
	if err != nil {
		h.Fail(err)
		return
	}
	defer conn.Close()
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, maxWait) {
		got, err := c.stream(ctx, conn, h)
		if ctx.Err() != nil {
			return
		}
		h.Fail(fmt.Errorf("SDS stream to cluster %q: %w", h.Ref().Source.Cluster, err))
		if got {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)):
		}
	}
}

// connect makes the gRPC channel of one handle; it dials when it is used.
func (c *Client) connect(cluster string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+cluster,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.opts.Dial(ctx, cluster) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: firstWait / 2, Multiplier: 1.6, Jitter: 0.5, MaxDelay: maxWait}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithNoProxy(),
	)
}

// stream runs one stream to its end. got says that it brought an answer.
func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn, h *certs.Handle) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := secretv3.NewSecretDiscoveryServiceClient(conn)
	if h.Ref().Source.Delta {
		s, err := client.DeltaSecrets(ctx)
		if err != nil {
			return false, err
		}
		return c.delta(s, h)
	}
	s, err := client.StreamSecrets(ctx)
	if err != nil {
		return false, err
	}
	return c.sotw(s, h)
}

// sotw speaks the state of the world protocol: after the first request, each
// request is the ACK or NACK of an answer.
func (c *Client) sotw(s secretv3.SecretDiscoveryService_StreamSecretsClient, h *certs.Handle) (got bool, err error) {
	ref := h.Ref()
	req := &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{ref.Name}, Node: c.opts.Node}
	var refusals pause
	for {
		h.Attempt()
		if err := s.Send(req); err != nil {
			if _, rerr := s.Recv(); rerr != nil {
				err = rerr // the stream's own end says more
			}
			return got, err
		}
		resp, err := s.Recv()
		if err != nil {
			return got, err
		}
		got = true
		accepted := req.GetVersionInfo()
		next := &discoveryv3.DiscoveryRequest{
			TypeUrl: secretType, ResourceNames: req.ResourceNames,
			VersionInfo: resp.GetVersionInfo(), ResponseNonce: resp.GetNonce(),
		}
		if err := c.take(h, resp.GetResources(), resp.GetVersionInfo()); err != nil {
			next.VersionInfo, next.ErrorDetail = accepted, nack(err)
			refusals.wait(s.Context())
		} else {
			refusals = pause{}
		}
		if !ref.Source.SetNodeOnFirstMessageOnly {
			next.Node = c.opts.Node
		}
		req = next
	}
}

// delta speaks the incremental protocol. A removal is acknowledged and has no
// effect, as in Envoy: a secret that is in use is not taken away.
func (c *Client) delta(s secretv3.SecretDiscoveryService_DeltaSecretsClient, h *certs.Handle) (got bool, err error) {
	ref := h.Ref()
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{ref.Name}, Node: c.opts.Node}
	var refusals pause
	for {
		h.Attempt()
		if err := s.Send(req); err != nil {
			if _, rerr := s.Recv(); rerr != nil {
				err = rerr
			}
			return got, err
		}
		resp, err := s.Recv()
		if err != nil {
			return got, err
		}
		got = true
		req = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: resp.GetNonce()}
		if !ref.Source.SetNodeOnFirstMessageOnly {
			req.Node = c.opts.Node
		}
		if len(resp.GetResources()) == 0 {
			continue
		}
		var all []*anypb.Any
		for _, r := range resp.GetResources() {
			all = append(all, r.GetResource())
		}
		if err := c.take(h, all, resp.GetResources()[0].GetVersion()); err != nil {
			req.ErrorDetail = nack(err)
			refusals.wait(s.Context())
		} else {
			refusals = pause{}
		}
	}
}

func nack(err error) *statuspb.Status {
	return &statuspb.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
}

// pause is the wait before a NACK: servers answer one at once with what was
// just refused, and so would we.
type pause struct{ last time.Duration }

// The shortest and the longest pause.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
)

func (p *pause) wait(ctx context.Context) {
	p.last = min(max(2*p.last, firstPause), maxPause)
	t := time.NewTimer(p.last)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// take publishes the one secret of an answer, or says why not. An answer with
// none says that the server does not have it yet: it is acknowledged, so that
// the server waits for it too, where Envoy refuses it and is told again at
// once.
func (c *Client) take(h *certs.Handle, resources []*anypb.Any, version string) error {
	if len(resources) == 0 {
		h.Fail(fmt.Errorf("missing SDS resources for %s in the answer", h.Ref().Name))
		return nil
	}
	err := c.publish(h, resources, version)
	if err != nil {
		h.Reject(err)
	}
	return err
}

func (c *Client) publish(h *certs.Handle, resources []*anypb.Any, version string) error {
	name := h.Ref().Name
	if len(resources) > 1 {
		return fmt.Errorf("unexpected SDS secrets length: %d", len(resources))
	}
	secret, err := c.opts.Decode(resources[0], version, "sds "+h.Ref().Source.Cluster)
	if err != nil {
		return err
	}
	if secret.Name != name {
		return fmt.Errorf("unexpected SDS secret (expecting %s): %s", name, secret.Name)
	}
	if secret.KeyPair == nil && secret.Validation == nil && secret.TicketKeys == nil {
		return errors.New("the secret is of no known kind")
	}
	h.Publish(secret)
	return nil
}
