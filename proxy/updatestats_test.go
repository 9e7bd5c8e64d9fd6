package proxy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outrider/certs"
	"outrider/proxy/stats"
)

func TestUpdatesAreCountedUnderEnvoysNames(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	has := func(want ...string) func() bool {
		return func() bool {
			got := r.get("/stats?filter=listener_manager.lds")
			for _, line := range want {
				if !strings.Contains(got, "listener_manager.lds."+line+"\n") {
					return false
				}
			}
			return true
		}
	}
	r.eventually("the first version", has("update_attempt: 1", "update_success: 1", "update_rejected: 0"))
	put(t, filepath.Join(r.dir, "lds.yaml"), strings.Replace(listenerOf(chain("a", "127.0.0.1")), "prefix_len: 32", "prefix_len: 33", 1))
	r.eventually("the refusal", has("update_attempt: 2", "update_success: 1", "update_rejected: 1"))
	put(t, filepath.Join(r.dir, "lds.yaml"), "version_info: v1\nresources: []\n")
	// The hash is Envoy's of the same version.
	r.eventually("the third version", has("update_attempt: 3", "update_success: 2", "version_text: \"v1\"", "version: 9194640092791331756"))
}

func TestWhatCannotBeReadIsAFailureAndNoRefusal(t *testing.T) {
	u := newUpdateStats(stats.New().Scope("x"))
	_, err := os.ReadFile(filepath.Join(t.TempDir(), "nosuch"))
	u.refused(err)
	u.refused(errors.New("no such policy"))
	if a, f, r := u.attempt.Value(), u.failure.Value(), u.rejected.Value(); a != 2 || f != 1 || r != 1 {
		t.Errorf("%d attempts, %d failures, %d rejected, want 2, 1, 1", a, f, r)
	}
}

func TestGrowthIsCountedOnce(t *testing.T) {
	var s secretTotals
	h := certs.NewHandle(certs.Ref{Name: "a"})
	h.Attempt()
	h.Reject(errors.New("no"))
	if got := s.growth(h, h.Stats()); got.Attempts != 1 || got.Rejected != 1 {
		t.Errorf("got %+v", got)
	}
	h.Attempt()
	if got := s.growth(h, h.Stats()); got.Attempts != 1 || got.Rejected != 0 {
		t.Errorf("got %+v", got)
	}
}
