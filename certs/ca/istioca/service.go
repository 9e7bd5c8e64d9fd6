package istioca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"
)

// The response headers with the authority's clock. DateHeader is HTTP's;
// MillisHeader is the time in milliseconds since 1970, for who measures finer.
const (
	DateHeader   = "date"
	MillisHeader = "x-outrider-time-ms"
)

// impersonated is what a node proxy asks with for the identity of a workload.
const impersonated = "ImpersonatedIdentity"

// refusal is why a request is not answered with a certificate: what the caller
// is told, and what the log says beside it.
type refusal struct {
	code codes.Code
	text string
	why  error // nil if text says it all
}

func (r *refusal) Error() string { return r.text }

func refuse(code codes.Code, text string, why error) *refusal {
	return &refusal{code: code, text: text, why: why}
}

// CreateCertificate answers one request (istio.v1.auth.IstioCertificateService).
func (s *Server) CreateCertificate(ctx context.Context, req *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	now := time.Now()
	// An error means that the stream is gone, which the answer will say too.
	_ = grpc.SetHeader(ctx, metadata.Pairs(
		DateHeader, now.UTC().Format(http.TimeFormat), MillisHeader, strconv.FormatInt(now.UnixMilli(), 10)))
	log := s.log.With("remote", remote(ctx))
	answer, err := s.answer(ctx, req, log)
	if err == nil {
		return answer, nil
	}
	var r *refusal
	if !errors.As(err, &r) {
		r = refuse(codes.Internal, "the authority cannot issue now", err)
	}
	attrs := []any{"code", r.code.String(), "reason", r.text}
	if r.why != nil {
		attrs = append(attrs, "detail", r.why)
	}
	log.Warn("certificate refused", attrs...)
	return nil, status.Error(r.code, r.text)
}

func (s *Server) answer(ctx context.Context, req *security.IstioCertificateRequest, log *slog.Logger) (*security.IstioCertificateResponse, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, refuse(codes.ResourceExhausted, "too many requests at once", fmt.Errorf("%d are being answered", cap(s.slots)))
	}
	who, csr, err := s.admit(ctx, req)
	if err != nil {
		return nil, err
	}
	ttl, asked := s.ttl(req.GetValidityDuration())
	issued, err := s.authority.Issue(Order{ID: who.id, Public: csr.public, TTL: ttl, Caller: who.how})
	switch {
	case errors.Is(err, ErrExpired):
		return nil, refuse(codes.FailedPrecondition, ErrExpired.Error(), err)
	case err != nil:
		return nil, err
	}
	log.Info("certificate issued", "id", who.id, "serial", fmt.Sprintf("%x", issued.Cert.SerialNumber),
		"not_after", issued.Cert.NotAfter.UTC(), "issuer", issued.Issuer, "caller", who.how,
		"asked_seconds", asked, "shortened", asked > int64(ttl/time.Second) || issued.Shortened)
	return &security.IstioCertificateResponse{CertChain: issued.response()}, nil
}

// admit finds out for whom a certificate is asked, and refuses all that is
// not in order.
func (s *Server) admit(ctx context.Context, req *security.IstioCertificateRequest) (*caller, *signingRequest, error) {
	callers, err := s.authenticate(ctx)
	if err != nil {
		if !s.strangers.allow(remote(ctx), time.Now()) {
			return nil, nil, refuse(codes.ResourceExhausted, "too many requests without good credentials", err)
		}
		var auth *authError
		if !errors.As(err, &auth) {
			return nil, nil, err
		}
		return nil, nil, refuse(codes.Unauthenticated, "not authenticated: "+auth.text, auth.reason)
	}
	if !s.callers.allow(callers[0].id.String()+" "+remote(ctx), time.Now()) {
		return nil, nil, refuse(codes.ResourceExhausted, "too many requests", fmt.Errorf("caller %s", callers[0].id))
	}
	if field, found := req.GetMetadata().GetFields()[impersonated]; found && field.AsInterface() != "" {
		return nil, nil, refuse(codes.Unauthenticated, "nobody may ask for the identity of another",
			fmt.Errorf("%s asks for %q", callers[0].id, field.GetStringValue()))
	}
	csr, err := parseRequest(req.GetCsr())
	if err != nil {
		return nil, nil, refuse(codes.InvalidArgument, "certificate signing request: "+err.Error(), fmt.Errorf("caller %s", callers[0].id))
	}
	who, err := choose(callers, csr.asks)
	return who, csr, err
}

// choose is the caller whom the request names, or if it names none, the first.
func choose(callers []caller, asks spiffeid.ID) (*caller, error) {
	if asks.IsZero() {
		return &callers[0], nil
	}
	n := slices.IndexFunc(callers, func(c caller) bool { return c.id == asks })
	if n < 0 {
		return nil, refuse(codes.PermissionDenied,
			fmt.Sprintf("the request names %s, and the caller is %s", asks, callers[0].id), errors.New(callers[0].how))
	}
	return &callers[n], nil
}

// ttl is the life that is granted for that many seconds, and what was asked.
func (s *Server) ttl(seconds int64) (granted time.Duration, asked int64) {
	switch {
	case seconds <= 0:
		return s.defaultTTL, int64(s.defaultTTL / time.Second)
	case seconds > int64(s.maxTTL/time.Second):
		return s.maxTTL, seconds
	}
	return time.Duration(seconds) * time.Second, seconds
}

// response is the cert_chain: the leaf, the intermediates, and as the last
// element all roots in one.
func (i *Issued) response() []string {
	out := []string{PEM(i.chain()[:1])}
	for n := range i.Intermediates {
		out = append(out, PEM(i.Intermediates[n:n+1]))
	}
	return append(out, PEM(i.Roots))
}
