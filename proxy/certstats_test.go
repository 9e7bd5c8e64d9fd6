package proxy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

func TestCertificatesAreShownInTheMetrics(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{})
	w.connect(time.Hour)
	h := w.secrets.Handles()[0]
	next := time.Now().Add(time.Minute)
	h.Plan(next)
	h.Fail(status.Error(codes.Unavailable, "away"))
	h.Reject(errors.New("of no use"))
	w.trust(w.root, newRoot(t, "other"))
	w.revision(2)
	last, _ := h.Failures()
	show := func() string {
		w.refreshStats()
		var text strings.Builder
		if err := w.registry.Text(&text, stats.Query{}); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	listener := "listener." + statName(w.listeners.get("l").current().cfg)
	first := w.root.Cert.NotAfter.Unix() // the other is younger
	got := show()
	for _, want := range []string{
		fmt.Sprintf("outrider.cert.roots.root_not_after_seconds: %d\n", first),
		fmt.Sprintf("outrider.cert.roots.next_rotation_seconds: %d\n", next.Unix()),
		fmt.Sprintf("outrider.cert.roots.last_failure_seconds: %d\n", last.Time.Unix()),
		"outrider.cert.roots.failures.unavailable: 1\n", "outrider.cert.roots.failures.rejected: 1\n", "outrider.cert.roots.rotations: 1\n",
		listener + ".ssl.verified_by_root." + certs.KeyID(w.root.Cert) + ": 1\n",
		fmt.Sprintf("%s.ssl.certificate.roots.expiration_unix_time_seconds: %d\n", listener, first),
		listener + ".ssl.certificate.unnamed_cert_e3b0c442.expiration_unix_time_seconds: ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if !strings.Contains(show(), "outrider.cert.roots.rotations: 1\n") {
		t.Error("another look counts again")
	}
}

func TestAnExpiredCertificateOfOursIsToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		o := newOwnExpired(log.logger(), stats.New())
		refused := func(secret string) {
			own := &tlsmux.OwnExpiredError{Secret: secret, NotAfter: time.Now().Add(-time.Minute), Now: time.Now()}
			o.tell(flow.End(flow.StageTLS, 0, &tlsmux.HandshakeError{Reason: tlsmux.ReasonOwnExpired, Err: own}))
		}
		said := func() int { return strings.Count(log.String(), "level=ERROR") }
		for range 50 {
			refused("a")
		}
		o.tell(errors.New("another"))
		if said() != 1 {
			t.Errorf("said %d times, want once", said())
		}
		refused("b")
		if said() != 2 {
			t.Error("another secret is passed over")
		}
		time.Sleep(sayAgain)
		refused("a")
		if said() != 3 || o.refused.Value() != 52 {
			t.Errorf("said %d times of %d, want 3 of 52", said(), o.refused.Value())
		}
	})
}
