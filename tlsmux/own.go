package tlsmux

import (
	"crypto/tls"
	"fmt"
	"math/big"
	"time"

	"outrider/certs"
)

// OwnExpiredError says that the certificate that we would have presented has
// ended. Peers would refuse it with an alert, and only their log would tell
// why; ours has the cause.
type OwnExpiredError struct {
	// Secret is the name of the secret; "" for one that stands in the
	// configuration, which From is then the place of.
	Secret, From string
	Serial       *big.Int
	NotAfter     time.Time
	Now          time.Time // our clock
	// LastFailure is why it was not renewed, at FailedAt; nil if its source has
	// said nothing.
	LastFailure error
	FailedAt    time.Time
}

func (e *OwnExpiredError) Error() string {
	s := fmt.Sprintf("our own certificate, secret %q from %s, serial %x, expired %s ago, at %s, and is not presented any more; our clock says %s",
		e.Secret, e.From, e.Serial, e.Now.Sub(e.NotAfter).Round(time.Second), stamp(e.NotAfter), stamp(e.Now))
	if e.LastFailure == nil {
		return s + "; no other one has come, and no failure is known"
	}
	return s + fmt.Sprintf("; the last try to renew it failed at %s: %v", stamp(e.FailedAt), e.LastFailure)
}

func (e *OwnExpiredError) Unwrap() error { return e.LastFailure }

// presentable is nil if pair, which is one of ours, may be presented now.
func (m *material) presentable(pair *tls.Certificate, now time.Time) error {
	leaf := leafOf(pair)
	if !now.After(leaf.NotAfter) {
		return nil
	}
	e := &OwnExpiredError{Serial: leaf.SerialNumber, NotAfter: leaf.NotAfter, Now: now, From: "the configuration"}
	if h := m.handleOf(pair); h != nil {
		e.Secret = h.Ref().Name
		e.LastFailure, e.FailedAt = h.LastFailure()
		if secret, err := h.Current(); err == nil {
			e.From = secret.From
		}
	}
	return &HandshakeError{Side: m.endpoint.side, Reason: ReasonOwnExpired, Err: e}
}

// handleOf is the secret that pair is of: the selector has them in the order of
// the handles.
func (m *material) handleOf(pair *tls.Certificate) *certs.Handle {
	for i := range m.local.pairs {
		if pair == &m.local.pairs[i] && i < len(m.endpoint.secrets.certificates) {
			return m.endpoint.secrets.certificates[i]
		}
	}
	return nil
}

// anyPresentable is nil if one of our certificates may be presented now, so
// that a server that has none writes nothing.
func (m *material) anyPresentable(now time.Time) error {
	var last error
	for i := range m.local.pairs {
		if last = m.presentable(&m.local.pairs[i], now); last == nil {
			return nil
		}
	}
	return last
}
