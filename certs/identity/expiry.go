package identity

import (
	"context"
	"time"
)

// repeat is how often it is said that there is no good certificate.
const repeat = time.Minute

// TellExpiry says loudly, at once and then once a minute, that the default
// certificate is not good any more and that no other came, until ctx ends. It
// is for a Source to run beside its work.
func (k *Keeper) TellExpiry(ctx context.Context) {
	var said time.Time
	h, err := k.Handle(DefaultName)
	if err != nil { // it is always there
		return
	}
	for {
		changed := h.Changed()
		now := k.opts.Now().Round(0)
		sleep := look
		if p := k.Pair(); p != nil {
			if left := p.TLS.Leaf.NotAfter.Sub(now); left >= 0 {
				said, sleep = time.Time{}, min(sleep, left+time.Millisecond)
			} else if now.Sub(said).Abs() >= repeat {
				said = now
				k.opts.Log.Error("the certificate has expired: peers refuse it", "reason", k.Expired())
			}
		}
		t := time.NewTimer(sleep)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
