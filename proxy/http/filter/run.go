package filter

import "context"

// Runner is a Factory with work of its own, beside requests. Whoever makes the
// factory calls Run once, waits for it, and ends ctx when no request uses the
// factory any more. A factory must work, if less well, where nobody calls it.
type Runner interface {
	// Run works until ctx ends and returns nil then.
	Run(ctx context.Context) error
}

// RequestInjector is a Stream by which a filter can send on bytes of the request
// that are none of what came: as Stream.InjectResponse, for requests.
type RequestInjector interface{ InjectRequest(p []byte, end bool) }
