package sdsserver

import (
	"context"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// StreamSecrets is the state of the world protocol. Each request has all names
// that the client wants, and answers for the last response; what is sent are
// the secrets that it does not have, which for secrets need not be all
// (xDS protocol: only listeners and clusters are).
func (s *Server) StreamSecrets(g secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	st := newStream(s, false)
	take := func(ctx context.Context, r *discoveryv3.DiscoveryRequest) error {
		st.identify(r.GetNode().GetId())
		if err := checkType(r.GetTypeUrl()); err != nil {
			return err
		}
		if nonce := r.GetResponseNonce(); nonce != "" {
			d := r.GetErrorDetail()
			if !st.answered(nonce, refusal(d.GetCode(), d.GetMessage(), d != nil)) {
				return nil
			}
		}
		if len(r.GetResourceNames()) == 0 && r.GetResponseNonce() == "" {
			return status.Error(codes.InvalidArgument, "the request names no secret")
		}
		st.unsubscribe(oneOf(r.GetResourceNames()))
		for _, name := range r.GetResourceNames() {
			if err := st.subscribe(ctx, name); err != nil {
				return err
			}
		}
		return nil
	}
	send := func(secrets []*certs.Secret, nonce string) error {
		r := &discoveryv3.DiscoveryResponse{VersionInfo: version(secrets), Nonce: nonce, TypeUrl: secretType}
		for _, one := range secrets {
			packed, err := pack(one)
			if err != nil {
				return err
			}
			r.Resources = append(r.Resources, packed)
		}
		return g.Send(r)
	}
	return run(g.Context(), st, g.Recv, take, send)
}

// DeltaSecrets is the incremental protocol. A secret is never taken away.
func (s *Server) DeltaSecrets(g secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	st := newStream(s, true)
	take := func(ctx context.Context, r *discoveryv3.DeltaDiscoveryRequest) error {
		st.identify(r.GetNode().GetId())
		if err := checkType(r.GetTypeUrl()); err != nil {
			return err
		}
		if nonce := r.GetResponseNonce(); nonce != "" {
			d := r.GetErrorDetail()
			st.answered(nonce, refusal(d.GetCode(), d.GetMessage(), d != nil))
		}
		if gone := r.GetResourceNamesUnsubscribe(); len(gone) > 0 {
			st.unsubscribe(func(name string) bool { return !oneOf(gone)(name) })
		}
		for _, name := range r.GetResourceNamesSubscribe() {
			if err := st.subscribe(ctx, name); err != nil {
				return err
			}
		}
		st.known(r.GetInitialResourceVersions())
		return nil
	}
	send := func(secrets []*certs.Secret, nonce string) error {
		r := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: version(secrets), Nonce: nonce, TypeUrl: secretType}
		for _, one := range secrets {
			packed, err := pack(one)
			if err != nil {
				return err
			}
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: one.Name, Version: one.Version, Resource: packed})
		}
		return g.Send(r)
	}
	return run(g.Context(), st, g.Recv, take, send)
}

// fetchWait is how long FetchSecrets waits for a secret that is not there yet.
const fetchWait = 5 * time.Second

// FetchSecrets answers once, with all secrets that the request names.
func (s *Server) FetchSecrets(ctx context.Context, r *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	var secrets []*certs.Secret
	out := &discoveryv3.DiscoveryResponse{TypeUrl: secretType}
	for _, name := range r.GetResourceNames() {
		h, err := s.opts.Secret(name)
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
		packed, err := pack(secret)
		if err != nil {
			return nil, err
		}
		secrets, out.Resources = append(secrets, secret), append(out.Resources, packed)
	}
	out.VersionInfo = version(secrets)
	return out, nil
}

// pack is a secret as the resource that goes out.
func pack(s *certs.Secret) (*anypb.Any, error) {
	m, err := Secret(s)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "secret %q: %s", s.Name, err)
	}
	return anypb.New(m)
}
