package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"maps"
	"net"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Failure is a try to get a secret that brought nothing.
type Failure struct {
	Time time.Time `json:"time"`
	// Reason is its class, see FailureReason.
	Reason string `json:"reason"`
	Text   string `json:"text"`
	// Over says that the secret has come since.
	Over bool `json:"over"`
}

// failures are what has gone wrong with one secret so far.
type failures struct {
	last     Failure
	byReason map[string]uint64
}

func (f *failures) add(reason string, err error, when time.Time) {
	f.last = Failure{Time: when, Reason: reason, Text: err.Error()}
	if f.byReason == nil {
		f.byReason = map[string]uint64{}
	}
	f.byReason[reason]++
}

// Failures are the last failure, also if it is over, and how many there were
// of each reason; nil for none.
func (h *Handle) Failures() (last *Failure, byReason map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.source != nil {
		last, byReason = h.source.Failures()
	}
	if len(h.history.byReason) == 0 {
		return last, byReason
	}
	own := h.history.last
	own.Over = h.lastErr == nil
	if last == nil || own.Time.After(last.Time) {
		last = &own
	}
	sum := maps.Clone(byReason)
	if sum == nil {
		sum = map[string]uint64{}
	}
	for reason, n := range h.history.byReason {
		sum[reason] += n
	}
	return last, sum
}

// The reasons of failures that are no gRPC code.
const (
	reasonRejected    = "rejected"    // a version came and was refused
	reasonTimeout     = "timeout"     // there was no answer in time
	reasonDNS         = "dns"         // the name of the source is not known
	reasonNetwork     = "network"     // no connection, or it broke
	reasonCertificate = "certificate" // a certificate on the way, or the one that came, does not hold
	reasonFile        = "file"        // a file cannot be read
	reasonOther       = "other"
)

// FailureReason is the class of an error that a source gave: a gRPC code in
// small letters (unauthenticated, unavailable, permission_denied), or rejected,
// timeout, dns, network, certificate, file, other. It is a label of few values.
func FailureReason(err error) string {
	if code := status.Code(unwrapStatus(err)); code != codes.OK && code != codes.Unknown {
		return snake(code.String())
	}
	var (
		dns  *net.DNSError
		op   *net.OpError
		path *fs.PathError
		late net.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return reasonTimeout
	case errors.As(err, &dns):
		return reasonDNS
	case ofCertificate(err):
		return reasonCertificate
	case errors.As(err, &path):
		return reasonFile
	case errors.As(err, &op):
		return reasonNetwork
	}
	return reasonOther
}

// unwrapStatus is what in err has a gRPC status; nil for nothing.
func unwrapStatus(err error) error {
	var has interface {
		error
		GRPCStatus() *status.Status
	}
	if errors.As(err, &has) {
		return has
	}
	return nil
}

func ofCertificate(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		unknown      x509.UnknownAuthorityError
		invalid      x509.CertificateInvalidError
		name         x509.HostnameError
	)
	return errors.As(err, &verification) || errors.As(err, &unknown) || errors.As(err, &invalid) || errors.As(err, &name)
}

// snake is "deadline_exceeded" for "DeadlineExceeded".
func snake(name string) string {
	var out strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
