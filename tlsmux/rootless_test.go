package tlsmux

import (
	"errors"
	"testing"

	"outrider/certs"
)

// A validation context that came by SDS without roots must not turn a check of
// names into a check of what the peer claims.
func TestNamesProveNothingWithoutRoots(t *testing.T) {
	w := newWorld(t)
	for _, side := range []Side{Downstream, Upstream} {
		v := &certs.Validation{SANs: []certs.SANMatcher{{Match: certs.StringMatcher{Kind: certs.MatchContains}}}}
		err := Verify(v, w.stranger.chain(), side, w.now)
		var refused *HandshakeError
		if !errors.As(err, &refused) || refused.Reason != ReasonUnknownRoot {
			t.Errorf("side %v: got %v, want it refused for want of roots", side, err)
		}
	}
}
