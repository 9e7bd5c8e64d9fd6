package h1

import "fmt"

// Envoy's response code details.
const (
	detailCodec          = "http1.codec_error"
	detailChars          = "http1.invalid_characters"
	detailTooLarge       = "http1.headers_too_large"
	detailTooMany        = "http1.too_many_headers"
	detailURL            = "http1.invalid_url"
	detailScheme         = "http1.invalid_scheme"
	detailEncoding       = "http1.invalid_transfer_encoding"
	detailBothLengths    = "http1.content_length_and_chunked_not_allowed"
	detailLength         = "http1.content_length_not_allowed"
	detailEncodingStatus = "http1.transfer_encoding_not_allowed"
	detailBody           = "http1.body_disallowed"
	detailConnection     = "http1.connection_header_rejected"
	detailAuthority      = "http.invalid_authority"
	detailVersion        = "low_version"
	detailTimeout        = "request_header_timeout"
)

// mistake is what the peer did wrong. status answers it, if it is a request.
type mistake struct {
	status  int
	details string
	what    string
}

// text is the body of the answer, which Envoy gives to mistakes of its codec.
func (m *mistake) text() string {
	if m.details == detailTimeout {
		return "request header timeout"
	}
	return phrase(m.status)
}

func (m *mistake) refusal() Refusal {
	return Refusal{Status: m.status, Details: m.details, Body: m.text(), Timeout: m.details == detailTimeout, Err: m}
}

// Error says what was refused.
func (m *mistake) Error() string { return "http/1: " + m.what }

func refused(status int, details, format string, args ...any) *mistake {
	return &mistake{status: status, details: details, what: fmt.Sprintf(format, args...)}
}

// bad is a mistake in the form of a message.
func bad(format string, args ...any) *mistake {
	return refused(400, detailCodec, format, args...)
}

// excerpt is what of b goes into an error.
func excerpt(b []byte) []byte { return b[:min(len(b), 64)] }
