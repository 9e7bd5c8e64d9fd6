package istiod

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// HealthType is the type of requests that report a workload's health; istiod
// does not answer them.
const HealthType = "type.googleapis.com/istio.v1.HealthInformation"

// unhealthy is the code of a report of a workload that is not well (HTTP's 500,
// as Istio's agent has it).
const unhealthy = 500

// Report is what is said of a workload's health: nil is well.
type Report struct{ Err error }

// message is the report as a request of either protocol.
func (r *Report) message(delta bool) proto.Message {
	var detail *status.Status
	if r.Err != nil {
		detail = &status.Status{Code: unhealthy, Message: r.Err.Error()}
	}
	if delta {
		return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: HealthType, ErrorDetail: detail}
	}
	return &discoveryv3.DiscoveryRequest{TypeUrl: HealthType, ErrorDetail: detail}
}

func isDelta(m any) bool {
	_, delta := m.(*discoveryv3.DeltaDiscoveryRequest)
	return delta
}

func (t *Transport) last() *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.report
}

// Report tells istiod how the workload is, now if there is a stream, and at the
// beginning of each one to come. An error to send it is the stream's end, which
// is heard of elsewhere.
func (t *Transport) Report(r Report) {
	t.mu.Lock()
	t.report = &r
	s := t.current
	t.mu.Unlock()
	if s == nil {
		return
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.begun {
		_ = s.raw.SendMsg(r.message(s.delta))
	}
}

// Health is how a workload's health is looked at (Istio: ReadinessProbe).
type Health struct {
	// Check is nil for a workload that is well; ctx ends after Timeout.
	Check func(ctx context.Context) error
	// Delay goes before the first check, Period between two.
	Delay, Timeout, Period time.Duration
	// Successes and Failures in a row change what is reported.
	Successes, Failures int
	Log                 *slog.Logger
}

// Run checks until ctx ends, and gives report each change, the first state too.
func (h *Health) Run(ctx context.Context, report func(Report)) {
	timer := time.NewTimer(h.Delay)
	defer timer.Stop()
	var said *Report
	well, ill := 0, 0
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(h.Period)
		err := h.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			well, ill = well+1, 0
		} else {
			well, ill = 0, ill+1
		}
		changed := said == nil || (said.Err == nil) != (err == nil)
		if !changed || err == nil && well < h.Successes || err != nil && ill < h.Failures {
			continue
		}
		said = &Report{Err: err}
		h.Log.Info("workload's health is reported to istiod", "healthy", err == nil, "reason", err)
		report(*said)
	}
}

func (h *Health) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	if err := h.Check(ctx); err != nil {
		return fmt.Errorf("application's readiness probe: %w", err)
	}
	return nil
}
