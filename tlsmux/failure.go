package tlsmux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"

	"outrider/certs"
)

// notReady is a handshake that could not begin. Nothing was written.
func notReady(side Side, err error) *HandshakeError {
	var missing *certs.NotReadyError
	if errors.As(err, &missing) {
		return &HandshakeError{Side: side, Reason: ReasonNotReady, Err: err}
	}
	return &HandshakeError{Side: side, Reason: ReasonUnusable, Err: fmt.Errorf("TLS context: %w", err)}
}

// failure makes a HandshakeError of whatever ended a handshake.
func failure(side Side, err error) *HandshakeError {
	var already *HandshakeError
	if errors.As(err, &already) {
		already.Side = side
		return already
	}
	f := &HandshakeError{Side: side, Reason: ReasonProtocol, Err: fmt.Errorf("TLS handshake: %w", err)}
	var header tls.RecordHeaderError
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		f.Reason, f.Err = ReasonTimeout, fmt.Errorf("the TLS handshake was not done in time: %w", err)
	case errors.Is(err, context.Canceled):
		f.Reason = ReasonCanceled
	case errors.As(err, &header):
		f.Reason, f.Err = ReasonNotTLS, fmt.Errorf("the peer does not speak TLS: %w", err)
		f.envoy = notTLS(side, header.RecordHeader[:])
	case alertOf(err) != 0:
		f.Reason, f.Alert, f.Err = ReasonAlert, alertOf(err), fmt.Errorf("the peer sent alert %d: %w", alertOf(err), err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.Reason, f.Err = ReasonEOF, fmt.Errorf("the peer closed during the TLS handshake: %w", err)
	case errors.As(err, &errno):
		f.Reason, f.envoy = ReasonReset, systemError(errno)
	}
	return f
}

// alertOf is the number of the alert from the peer that err is; 0 if it is
// none. crypto/tls has no name for its type, which is a number.
func alertOf(err error) uint8 {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return uint8(v.Uint())
	}
	return 0
}

// EnvoyText is what Envoy 1.40 has for %DOWNSTREAM_TRANSPORT_FAILURE_REASON%
// and %UPSTREAM_TRANSPORT_FAILURE_REASON% for the same failure (where access
// logs write "_" for each space); "" where Envoy has none, as for a peer that
// closes. Where its text is not known it is our own sentence.
func (e *HandshakeError) EnvoyText() string {
	switch e.Reason {
	case ReasonNotReady:
		return "TLS error: Secret is not supplied by SDS"
	case ReasonEOF, ReasonTimeout, ReasonCanceled:
		return ""
	case ReasonNoCert:
		if e.Side == Downstream {
			return boringError(192, "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate")
		}
	case ReasonSAN, ReasonHash, ReasonSVID:
		return verifyFailed(e.envoy)
	case ReasonUnknownRoot, ReasonExpired, ReasonNotYetValid, ReasonEKU, ReasonCRL, ReasonChain:
		if e.envoy == "no trust bundle store" {
			return verifyFailed(e.envoy)
		}
		if e.envoy != "" {
			return verifyFailed(fmt.Sprintf("X509_verify_cert: certificate verification error at depth %d: %s", e.depth, e.envoy))
		}
	case ReasonKeyUsage:
		return boringError(302, "KEY_USAGE_BIT_INCORRECT")
	case ReasonAlert:
		if name := alertName(e.Alert); name != "" {
			return boringError(1000+uint32(e.Alert), name)
		}
	case ReasonNotTLS, ReasonReset:
		return e.envoy
	}
	return e.Error()
}

func verifyFailed(detail string) string {
	return boringError(125, "CERTIFICATE_VERIFY_FAILED:verify cert failed: "+detail)
}

// boringError is an error of BoringSSL's library 16, SSL.
func boringError(reason uint32, text string) string {
	return fmt.Sprintf("TLS_error:|%d:SSL routines:OPENSSL_internal:%s:TLS_error_end", 16<<24|reason, text)
}

// systemError is one of its library 2, the system.
func systemError(errno syscall.Errno) string {
	text := errno.Error()
	text = strings.ToUpper(text[:1]) + text[1:]
	return fmt.Sprintf("TLS_error:|%d:system library:OPENSSL_internal:%s:TLS_error_end", 2<<24|uint32(errno), text)
}

// notTLS is what BoringSSL makes of plaintext where a record should begin; a
// server knows HTTP.
func notTLS(side Side, header []byte) string {
	if side == Downstream {
		for _, method := range []string{"GET ", "POST ", "HEAD ", "PUT "} {
			if strings.HasPrefix(string(header), method) {
				return boringError(156, "HTTP_REQUEST")
			}
		}
		if strings.HasPrefix(string(header), "CONNE") {
			return boringError(155, "HTTPS_PROXY_REQUEST")
		}
	}
	return boringError(247, "WRONG_VERSION_NUMBER")
}

// alertName is BoringSSL's name of an alert that the peer sent.
func alertName(alert uint8) string {
	switch alert {
	case 10:
		return "SSLV3_ALERT_UNEXPECTED_MESSAGE"
	case 20:
		return "SSLV3_ALERT_BAD_RECORD_MAC"
	case 22:
		return "TLSV1_ALERT_RECORD_OVERFLOW"
	case 21:
		return "TLSV1_ALERT_DECRYPTION_FAILED"
	case 40:
		return "SSLV3_ALERT_HANDSHAKE_FAILURE"
	case 42:
		return "SSLV3_ALERT_BAD_CERTIFICATE"
	case 43:
		return "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"
	case 44:
		return "SSLV3_ALERT_CERTIFICATE_REVOKED"
	case 45:
		return "SSLV3_ALERT_CERTIFICATE_EXPIRED"
	case 46:
		return "SSLV3_ALERT_CERTIFICATE_UNKNOWN"
	case 47:
		return "SSLV3_ALERT_ILLEGAL_PARAMETER"
	case 48:
		return "TLSV1_ALERT_UNKNOWN_CA"
	case 49:
		return "TLSV1_ALERT_ACCESS_DENIED"
	case 50:
		return "TLSV1_ALERT_DECODE_ERROR"
	case 51:
		return "TLSV1_ALERT_DECRYPT_ERROR"
	case 70:
		return "TLSV1_ALERT_PROTOCOL_VERSION"
	case 71:
		return "TLSV1_ALERT_INSUFFICIENT_SECURITY"
	case 80:
		return "TLSV1_ALERT_INTERNAL_ERROR"
	case 90:
		return "TLSV1_ALERT_USER_CANCELLED"
	case 112:
		return "TLSV1_ALERT_UNRECOGNIZED_NAME"
	case 110:
		return "TLSV1_ALERT_UNSUPPORTED_EXTENSION"
	case 115:
		return "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY"
	case 114:
		return "TLSV1_ALERT_BAD_CERTIFICATE_HASH_VALUE"
	case 116:
		return "TLSV1_ALERT_CERTIFICATE_REQUIRED"
	case 120:
		return "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"
	}
	return ""
}
