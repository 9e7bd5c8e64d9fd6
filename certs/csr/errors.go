package csr

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs/identity"
)

// Stage is how far a request came.
type Stage string

// The stages of a request, in order.
const (
	StagePrepare Stage = "prepare" // key, token, client certificate, roots of ours
	StageConnect Stage = "connect" // to the authority, with its handshake
	StageRequest Stage = "request" // sent, and refused or not answered
	StageAnswer  Stage = "answer"  // it came, and does not hold
)

// Fault is who has to mend something.
type Fault string

// Whose fault an error is.
const (
	Ours      Fault = "ours"      // our files, token, certificate or clock; or we gave up
	Authority Fault = "authority" // what it is, says or issues
	Network   Fault = "network"   // no connection, or it broke, or no answer in time
)

// Error is why a request brought no certificate. It never has a token in it,
// nor what the authority said of one.
type Error struct {
	Address string
	Stage   Stage
	Fault   Fault
	// Proof says what was shown to the authority; "" before it was connected.
	Proof string
	// Clock is the authority's, as far as this request showed it.
	Clock identity.Clock
	Err   error

	code codes.Code
}

func (e *Error) Error() string {
	var b strings.Builder
	switch e.Stage {
	case StagePrepare:
		fmt.Fprintf(&b, "request to authority %q: %v", e.Address, e.Err)
	case StageConnect:
		fmt.Fprintf(&b, "connection to authority %q: %v", e.Address, e.Err)
	case StageAnswer:
		fmt.Fprintf(&b, "answer of authority %q: %v", e.Address, e.Err)
	default:
		fmt.Fprintf(&b, "authority %q: %v", e.Address, e.Err)
	}
	if e.Proof != "" {
		b.WriteString("; " + e.Proof)
	}
	if inTime := (*TimeError)(nil); differ(e.Clock) && !errors.As(e.Err, &inTime) { // which says it itself
		b.WriteString("; " + describeClock(e.Clock))
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Code is the gRPC code: the authority's own if it refused, Unavailable without
// a connection, DeadlineExceeded and Canceled if time ran out or ctx ended,
// FailedPrecondition for what we lack, DataLoss for an answer that does not
// hold. It is never OK.
func (e *Error) Code() codes.Code { return e.code }

// GRPCStatus makes status.Code and status.FromError work on an Error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }

// failure is err as the Error of the try.
func (t *try) failure(err error) *Error {
	e := &Error{Address: t.opts.Address, Stage: t.stage, Clock: t.clock, Err: err}
	if t.proof != nil && (t.stage == StageRequest || t.stage == StageConnect && isAlert(err)) {
		e.Proof = t.proof.describe()
	}
	e.code, e.Fault = t.judge(err)
	if inTime := (*TimeError)(nil); errors.As(err, &inTime) {
		e.Clock = inTime.Clock // estimated, if no header told
	}
	return e
}

// judge says which code an error has, and whose fault it is.
func (t *try) judge(err error) (codes.Code, Fault) {
	ended := (*endedError)(nil)
	switch {
	case !errors.As(err, &ended):
	case errors.Is(ended.ctx, context.DeadlineExceeded):
		return codes.DeadlineExceeded, Network
	default:
		return codes.Canceled, Ours
	}
	switch t.stage {
	case StagePrepare:
		return codes.FailedPrecondition, Ours
	case StageConnect:
		return codes.Unavailable, faultOfConnection(err)
	case StageAnswer:
		if inTime := (*TimeError)(nil); errors.As(err, &inTime) && inTime.explained() {
			return codes.DataLoss, Ours
		}
		return codes.DataLoss, Authority
	}
	if broken := (*brokenError)(nil); errors.As(err, &broken) {
		return status.Code(broken.rpc), faultOfConnection(broken.conn)
	}
	code := status.Code(err)
	return code, faultOfCode(code)
}

// faultOfConnection: an alert is what the authority has against us; a handshake
// that ended otherwise is the authority's, unless the way broke.
func faultOfConnection(err error) Fault {
	if isAlert(err) || errors.Is(err, errReadable) {
		return Ours
	}
	handshake, way := (*handshakeError)(nil), net.Error(nil)
	if errors.As(err, &handshake) && !errors.As(err, &way) && !errors.Is(err, io.EOF) {
		return Authority
	}
	return Network
}

// isAlert says that the authority ended TLS with an alert (crypto/tls marks
// alerts that it receives with this operation).
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func faultOfCode(code codes.Code) Fault {
	switch code {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.Canceled:
		return Ours
	case codes.Unavailable, codes.DeadlineExceeded:
		return Network
	}
	return Authority
}

// maxText bounds what is repeated of the authority's words.
const maxText = 500

// RefusedError is the authority's own refusal.
type RefusedError struct {
	Code codes.Code
	// Text is what the authority says, without our token, at most 500 bytes.
	Text string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %q", e.Code, e.Text) }

// GRPCStatus makes status.Code work.
func (e *RefusedError) GRPCStatus() *status.Status { return status.New(e.Code, e.Text) }

// refused is the error of a call, without the token, which an authority may
// repeat.
func (t *try) refused(err error) error {
	s := status.Convert(err)
	text := t.proof.token.scrub(s.Message())
	return &RefusedError{Code: s.Code(), Text: text[:min(len(text), maxText)]}
}

// endedError is a request that time or our own side ended.
type endedError struct{ cause, ctx, last error }

func (e *endedError) Error() string {
	if refused := (*RefusedError)(nil); errors.Is(e.last, e.cause) || errors.As(e.last, &refused) {
		return e.cause.Error() // the last error says only that, in gRPC's words
	}
	return fmt.Sprintf("%v (%v)", e.cause, e.last)
}

func (e *endedError) Unwrap() []error { return []error{e.cause, e.ctx, e.last} }

// TokenError is a token file that is there and cannot be used.
type TokenError struct {
	Path string
	Err  error
}

func (e *TokenError) Error() string { return fmt.Sprintf("token file %s: %v", e.Path, e.Err) }
func (e *TokenError) Unwrap() error { return e.Err }

// CertificateError is a client certificate that cannot be had.
type CertificateError struct{ Err error }

func (e *CertificateError) Error() string { return fmt.Sprintf("client certificate: %v", e.Err) }
func (e *CertificateError) Unwrap() error { return e.Err }

// AuthorityError is an authority whose own certificate does not prove it.
type AuthorityError struct {
	ServerName string
	Presented  *x509.Certificate // nil if there was none
	Trusted    []string          // where our roots came from
	Now        time.Time         // our clock
	Err        error             // of crypto/x509, or that no key is pinned
}

func (e *AuthorityError) Error() string {
	trusted := strings.Join(e.Trusted, ", ")
	if e.Presented == nil {
		return fmt.Sprintf("the authority is not %q: %v", e.ServerName, e.Err)
	}
	return fmt.Sprintf("the authority is not %q: %v; it presented %s, issued by %q, valid from %s to %s; we trust %s and our clock says %s",
		e.ServerName, e.Err, nameOf(e.Presented), e.Presented.Issuer, stamp(e.Presented.NotBefore), stamp(e.Presented.NotAfter), trusted, stamp(e.Now))
}

func (e *AuthorityError) Unwrap() error { return e.Err }
