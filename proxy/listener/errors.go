package listener

import "fmt"

// Reason is why a listener filter ended a connection: a label of few values.
type Reason string

// The reasons of an Error.
const (
	// Timeout: listener_filters_timeout passed, or partialTimeout.
	Timeout Reason = "timeout"
	// RemoteClose: the client closed before a filter had decided.
	RemoteClose Reason = "remote_close"
	// Shed: too many connections were waiting, and this one waited longest.
	Shed Reason = "shed"
	// HelloTooLarge: the ClientHello is over max_client_hello_size.
	HelloTooLarge Reason = "client_hello_too_large"
	// HelloInvalid: close_connection_on_client_hello_parsing_errors, or a
	// client that speaks no TLS of today.
	HelloInvalid Reason = "client_hello_invalid"
	// ProxyHeader: a PROXY header that is bad, missing or disallowed.
	ProxyHeader Reason = "proxy_header"
	// Broken: the socket failed.
	Broken Reason = "socket_error"
)

// Error is why a connection ended in the listener filters.
type Error struct {
	Filter string // its name in the configuration
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Filter, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// refuse is an error with a reason, before the filter's name is known.
func refuse(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}
