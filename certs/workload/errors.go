package workload

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// endsStream says that err ended the stream. What go-spiffe cannot read has no
// gRPC status, and ends nothing.
func endsStream(err error) bool {
	_, isStatus := status.FromError(err)
	return isStatus || errors.Is(err, io.EOF)
}

// isDenied says that the agent knows no identity for this process (SPIFFE
// Workload API, section 5.2.1: PermissionDenied).
func isDenied(err error) bool { return status.Code(err) == codes.PermissionDenied }

// sentence is what the end of a stream means.
func (s *Source) sentence(err error) error {
	var verifier *bundlesOnlyError
	switch code := status.Code(err); {
	case errors.As(err, &verifier):
		return fmt.Errorf("%s: %w", s.from, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: the agent has closed the stream: %w", s.from, err)
	case code == codes.PermissionDenied:
		return fmt.Errorf("%s: no registration entry is for this process, so that it has no identity: %w", s.from, err)
	case code == codes.InvalidArgument:
		return fmt.Errorf("%s: the agent refuses the request itself, so that it may not be a Workload API: %w", s.from, err)
	case code == codes.Unimplemented:
		return fmt.Errorf("%s: whoever listens there does not serve the Workload API: %w", s.from, err)
	case code == codes.Unavailable:
		return fmt.Errorf("%s: nobody answers there: %w", s.from, err)
	}
	return fmt.Errorf("%s: the stream has ended: %w", s.from, err)
}

// bundlesOnlyError says that a workload may verify others but has no identity.
type bundlesOnlyError struct {
	domains int
	err     error
}

func (e *bundlesOnlyError) Error() string {
	return fmt.Sprintf("no registration entry is for this process: it verifies others with %d bundles, and has no identity itself: %v", e.domains, e.err)
}

func (e *bundlesOnlyError) Unwrap() error { return e.err }
