package listener

import (
	"bytes"
	"crypto/tls"
	"errors"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/tlsmux/hello"
)

// tlsInspector tells TLS from plaintext (Envoy: tls_inspector).
type tlsInspector struct {
	limit         int // bytes
	closeOnErrors bool
}

func newTLSInspector(cfg *config.TLSInspector) *tlsInspector {
	t := &tlsInspector{limit: cfg.MaxClientHello, closeOnErrors: cfg.CloseOnParseError}
	if t.limit <= 0 || t.limit > maxPeek {
		t.limit = maxPeek
	}
	return t
}

// inspect looks for a ClientHello. What is no TLS goes on as plaintext, unless
// the filter is told to close.
func (t *tlsInspector) inspect(i *inspection) error {
	if err := i.firstByte(); err != nil {
		return err
	}
	for want := 1; ; {
		if err := i.more(want); err != nil {
			return err
		}
		b := i.peek.bytes()
		b = b[:min(len(b), t.limit)]
		h, err := hello.Parse(b)
		switch {
		case err == nil:
			return t.found(i, h, len(b))
		case !errors.Is(err, hello.ErrIncomplete):
			return t.notFound(i, b, err)
		}
		if want = hello.Need(b); want > t.limit {
			i.stats.helloTooLarge.Inc()
			i.helloFailure("ClientHelloTooLarge")
			return refuse(HelloTooLarge, "the ClientHello is larger than max_client_hello_size, %d bytes", t.limit)
		}
	}
}

func (t *tlsInspector) found(i *inspection, h *hello.Hello, size int) error {
	i.info.SNI = h.ServerName
	count(h.ServerName != "", i.stats.sniFound, i.stats.sniNotFound)
	i.info.ALPNs = h.ALPN
	i.stats.helloBytes.Record(uint64(size))
	if h.Legacy < tls.VersionTLS10 {
		i.stats.tlsNotFound.Inc()
		i.helloFailure("ClientHelloInvalidTlsVersion")
		i.info.DownstreamFailure = cryptoError("10000085", "CONNECTION_REJECTED")
		return refuse(HelloInvalid, "the client speaks version %#04x at most, which is no TLS", h.Legacy)
	}
	i.tls = true
	i.info.TransportProtocol = "tls"
	i.stats.tlsFound.Inc()
	count(len(h.ALPN) > 0, i.stats.alpnFound, i.stats.alpnNotFound)
	return nil
}

func (t *tlsInspector) notFound(i *inspection, b []byte, err error) error {
	i.stats.helloBytes.Record(uint64(len(b)))
	i.stats.tlsNotFound.Inc()
	i.helloFailure("ClientHelloNotDetected")
	i.info.DownstreamFailure = notFoundReason(b, err)
	if t.closeOnErrors {
		return refuse(HelloInvalid, "%w", err)
	}
	return nil
}

// helloFailure is the dynamic metadata that Envoy leaves.
func (i *inspection) helloFailure(reason string) {
	i.info.SetMetadata("envoy.filters.listener.tls_inspector", "failure_reason", structpb.NewStringValue(reason))
}

// notFoundReason is what Envoy has in DOWNSTREAM_TRANSPORT_FAILURE_REASON: what
// BoringSSL says of the same bytes.
func notFoundReason(b []byte, err error) string {
	switch {
	case errors.Is(err, hello.ErrExtension):
		return cryptoError("10000095", "ERROR_PARSING_EXTENSION")
	case errors.Is(err, hello.ErrMalformed):
		return cryptoError("10000083", "CLIENTHELLO_PARSE_FAILED")
	case bytes.HasPrefix(b, []byte("CONNE")):
		return cryptoError("1000009b", "HTTPS_PROXY_REQUEST")
	case startsRequest(b):
		return cryptoError("1000009c", "HTTP_REQUEST")
	}
	return cryptoError("100000f7", "WRONG_VERSION_NUMBER")
}

func startsRequest(b []byte) bool {
	for _, method := range []string{"GET ", "POST ", "HEAD ", "PUT "} {
		if bytes.HasPrefix(b, []byte(method)) {
			return true
		}
	}
	return false
}

func cryptoError(code, reason string) string {
	return "TLS_error|error:" + code + ":SSL routines:OPENSSL_internal:" + reason + ":TLS_error_end"
}

func count(found bool, yes, no interface{ Inc() }) {
	if found {
		yes.Inc()
	} else {
		no.Inc()
	}
}
