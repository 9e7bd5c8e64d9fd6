package sdsserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// secretType is the type_url of a secret.
const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// StreamSecrets is the state of the world protocol. Each request has all names
// that the client wants, and answers for the last response; what is sent are
// the secrets that it does not have, which for secrets need not be all
// (xDS protocol: only listeners and clusters are). A new stream gets all that it
// asks for, whatever version it says it has: that is of all of its secrets
// together, and Envoy acknowledges what it has already without a change.
func (s *Server) StreamSecrets(g secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	st := newStream(s, false)
	take := func(ctx context.Context, r *discoveryv3.DiscoveryRequest) error {
		st.identify(r.GetNode().GetId())
		nonce, names := r.GetResponseNonce(), r.GetResourceNames()
		if err := check(r.GetTypeUrl(), names, nonce == ""); err != nil {
			return err
		}
		if nonce != "" && !st.answered(nonce, refusal(r.GetErrorDetail())) {
			return nil
		}
		st.unsubscribe(func(name string) bool { return slices.Contains(names, name) })
		return st.subscribe(ctx, names)
	}
	send := func(secrets []resource, nonce string) error {
		r := &discoveryv3.DiscoveryResponse{VersionInfo: version(secrets), Nonce: nonce, TypeUrl: secretType}
		for _, one := range secrets {
			r.Resources = append(r.Resources, one.packed)
		}
		return g.Send(r)
	}
	return run(g.Context(), st, protocol[*discoveryv3.DiscoveryRequest]{g.Recv, take, send})
}

// DeltaSecrets is the incremental protocol. A secret is never taken away. What
// a client has from before is sent when it changes; what it asks for again on
// the same stream is sent again, for it may have dropped it (xDS protocol).
func (s *Server) DeltaSecrets(g secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	st, first := newStream(s, true), true
	take := func(ctx context.Context, r *discoveryv3.DeltaDiscoveryRequest) error {
		st.identify(r.GetNode().GetId())
		names := r.GetResourceNamesSubscribe()
		if err := check(r.GetTypeUrl(), names, first); err != nil {
			return err
		}
		if nonce := r.GetResponseNonce(); nonce != "" {
			st.answered(nonce, refusal(r.GetErrorDetail()))
		}
		if gone := r.GetResourceNamesUnsubscribe(); len(gone) > 0 {
			st.unsubscribe(func(name string) bool { return !slices.Contains(gone, name) })
		}
		st.resend(names)
		if err := st.subscribe(ctx, names); err != nil {
			return err
		}
		if first {
			st.known(r.GetInitialResourceVersions())
		}
		first = false
		return nil
	}
	send := func(secrets []resource, nonce string) error {
		r := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: version(secrets), Nonce: nonce, TypeUrl: secretType}
		for _, one := range secrets {
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: one.name, Version: one.version, Resource: one.packed})
		}
		return g.Send(r)
	}
	return run(g.Context(), st, protocol[*discoveryv3.DeltaDiscoveryRequest]{g.Recv, take, send})
}

// fetchWait is how long FetchSecrets waits for secrets that are not there yet.
const fetchWait = 5 * time.Second

// FetchSecrets answers once, with all secrets that the request names.
func (s *Server) FetchSecrets(ctx context.Context, r *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	if err := check(r.GetTypeUrl(), r.GetResourceNames(), true); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	var secrets []resource
	out := &discoveryv3.DiscoveryResponse{TypeUrl: secretType}
	for _, name := range r.GetResourceNames() {
		h, err := s.lookup(name, r.GetNode().GetId())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		select {
		case <-h.Initial():
		case <-ctx.Done():
		}
		secret, err := h.Current()
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		packed, err := pack(name, secret)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		secrets, out.Resources = append(secrets, resource{name, secret.Version, packed}), append(out.Resources, packed)
	}
	out.VersionInfo = version(secrets)
	return out, nil
}

// check refuses a request for anything but secrets by their names; the first
// of a stream must have some. "*", or none at first, asks for all that there
// are (xDS protocol), which nobody has a use for.
func check(url string, names []string, first bool) error {
	switch {
	case url != "" && url != secretType:
		return status.Errorf(codes.InvalidArgument, "%s is not served here, only %s", url, secretType)
	case len(names) > maxNames:
		return status.Errorf(codes.ResourceExhausted, "the request names %d secrets, and can name %d", len(names), maxNames)
	case slices.Contains(names, "*"):
		return status.Error(codes.InvalidArgument, "secrets are asked for by name, not by *")
	case first && len(names) == 0:
		return status.Error(codes.InvalidArgument, "the request names no secret")
	}
	return nil
}

// pack is a secret as the resource that goes out under the name that it was
// asked for by, which Envoy insists on.
func pack(name string, s *certs.Secret) (*anypb.Any, error) {
	m, err := Secret(s)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", name, err)
	}
	m.Name = name
	return anypb.New(m)
}

// version is what an answer is called: the secret's own version, or those of
// all that are in it.
func version(secrets []resource) string {
	versions := make([]string, 0, len(secrets))
	for _, s := range secrets {
		versions = append(versions, s.version)
	}
	return strings.Join(versions, ",")
}

// refusal is the text of a NACK, "" if it is none.
func refusal(detail *statuspb.Status) string {
	if detail != nil && detail.GetMessage() == "" {
		return fmt.Sprintf("without a reason (%s)", codes.Code(uint32(detail.GetCode()))) //nolint:gosec // a gRPC code
	}
	return detail.GetMessage()
}
