package proxy

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// sayAgain is how often it is said of one secret that its certificate has
// expired: every handshake tells.
const sayAgain = time.Minute

// ownExpired tells loudly that handshakes fail for a certificate of our own.
type ownExpired struct {
	log     *slog.Logger
	refused *stats.Counter

	mu   sync.Mutex
	said map[string]time.Time // guarded by mu; by the secret's name
}

func newOwnExpired(log *slog.Logger, r *stats.Registry) *ownExpired {
	return &ownExpired{log: log, refused: r.Scope("outrider").Counter("own_certificate_expired"), said: map[string]time.Time{}}
}

// tell counts err if it is of an expired certificate of our own, and logs it at
// error unless that was said of the same secret within the last minute.
func (o *ownExpired) tell(err error) {
	var own *tlsmux.OwnExpiredError
	if !errors.As(err, &own) {
		return
	}
	o.refused.Inc()
	if o.due(own.Secret, time.Now()) {
		o.log.Error("our own certificate has expired: handshakes are refused", "secret", own.Secret, "not_after", own.NotAfter, "reason", own.Error())
	}
}

// due reports whether it is time to speak of a secret.
func (o *ownExpired) due(secret string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last, ok := o.said[secret]; ok && now.Sub(last) < sayAgain {
		return false
	}
	o.said[secret] = now
	return true
}
