package route

import (
	"errors"
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/http/headers"
)

// Headers are matchers of header fields.
type Headers = headers.Matchers

// CompileHeaders compiles a list of header matchers.
func CompileHeaders(list []config.HeaderMatcher) (Headers, error) { return headers.Compile(list) }

// retry is a retry policy's matchers.
type retry struct {
	cfg                *config.RetryPolicy
	response, requests Headers
}

func compileRetry(cfg *config.RetryPolicy) (*retry, error) {
	if cfg == nil {
		return nil, nil
	}
	r := &retry{cfg: cfg}
	var err1, err2 error
	if r.response, err1 = headers.Compile(cfg.RetriableHeaders); err1 != nil {
		err1 = fmt.Errorf("retry_policy.retriable_headers%w", err1)
	}
	if r.requests, err2 = headers.Compile(cfg.RequestHeaders); err2 != nil {
		err2 = fmt.Errorf("retry_policy.retriable_request_headers%w", err2)
	}
	return r, errors.Join(err1, err2)
}

func (m *Match) retry() *retry {
	if m.entry != nil && m.entry.retry != nil {
		return m.entry.retry
	}
	return m.host.retry
}

// Retry is the retry policy: the route's, else the virtual host's, else nil.
func (m *Match) Retry() *config.RetryPolicy {
	if r := m.retry(); r != nil {
		return r.cfg
	}
	return nil
}

// RetriableHeaders are those of answers of which any asks for another attempt.
func (m *Match) RetriableHeaders() Headers {
	if r := m.retry(); r != nil {
		return r.response
	}
	return nil
}

// RetryRequestHeaders are those of requests of which one must be there for
// retries; without any all may have them.
func (m *Match) RetryRequestHeaders() Headers {
	if r := m.retry(); r != nil {
		return r.requests
	}
	return nil
}
