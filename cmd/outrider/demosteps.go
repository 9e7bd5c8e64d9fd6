package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The addresses of examples/server.yaml and examples/client.yaml.
const (
	viaMTLS      = "127.0.1.1:50051"
	viaPlaintext = "127.0.1.1:50052"
	viaWrongID   = "127.0.1.1:50053"
	viaStrict    = "127.0.1.1:50061"
	direct       = "127.0.2.1:50051"
	directStrict = "127.0.2.1:50061"
	appAddress   = "127.0.2.2:50051"
)

// demoSteps are the rows of the table, in order.
var demoSteps = []func(context.Context, *mesh) outcome{
	waitsForSecrets, mtlsByMetadata, plaintextByMetadata, plaintextUnderPermissive,
	plaintextUnderStrict, mtlsUnderStrict, wrongIdentity, rotationUnderLoad,
}

// waitsForSecrets shows that a sidecar without its secrets refuses, and serves
// as soon as they come.
func waitsForSecrets(ctx context.Context, m *mesh) outcome {
	o := outcome{what: "no secret yet: refused; the secret comes: served", expected: "refused, then an answer"}
	_, before := exchange(ctx, viaMTLS)
	after := m.deliver(ctx)
	if after != nil {
		return o.failed(after)
	}
	for range 200 {
		if _, after = exchange(ctx, viaMTLS); after == nil {
			break
		}
		pause(ctx, 50*time.Millisecond)
	}
	o.ok = before != nil && after == nil
	o.seen = fmt.Sprintf("%s; %s", verdict(before), verdict(after))
	line, err := m.client.accessLine(ctx, "not_supplied_by_SDS")
	if _, reason, found := strings.Cut(line, "secret"); found {
		o.seen += " (secret" + words(reason) + ")"
	}
	return o.failed(err)
}

func verdict(err error) string {
	if err != nil {
		return "refused"
	}
	return "answered"
}

// mtlsByMetadata: the endpoint's metadata says tlsMode istio.
func mtlsByMetadata(ctx context.Context, m *mesh) outcome {
	o := outcome{what: "endpoint with tlsMode: istio", expected: "mTLS, TLSv1.3, spiffe://cluster.local/ns/dev/sa/web"}
	_, err := exchange(ctx, viaMTLS)
	line, logErr := m.server.accessLine(ctx, "TLSv1.3", "spiffe://cluster.local/ns/dev/sa/web")
	o.ok, o.seen = err == nil && logErr == nil, line
	return o.failed(err, logErr)
}

// plaintextByMetadata: an endpoint without the label falls through to {}.
func plaintextByMetadata(ctx context.Context, m *mesh) outcome {
	o := outcome{what: "endpoint without the label", expected: "plaintext through both sidecars"}
	_, err := exchange(ctx, viaPlaintext)
	line, logErr := m.client.accessLine(ctx, "outbound|50052|plaintext|uc.dev.svc.cluster.local -")
	o.ok, o.seen = err == nil && logErr == nil, line
	return o.failed(err, logErr)
}

func plaintextUnderPermissive(ctx context.Context, _ *mesh) outcome {
	o := outcome{what: "plaintext without a sidecar, PERMISSIVE port", expected: "answered"}
	_, err := exchange(ctx, direct)
	o.ok, o.seen = err == nil, verdict(err)
	return o.failed(err)
}

func plaintextUnderStrict(ctx context.Context, m *mesh) outcome {
	o := outcome{what: "plaintext without a sidecar, STRICT port", expected: "refused: no filter chain"}
	_, err := exchange(ctx, directStrict)
	n, statErr := m.server.stat(ctx, "listener.127.0.2.1_50061.no_filter_chain_match")
	o.ok, o.seen = err != nil && n == 1 && statErr == nil, fmt.Sprintf("%s, no_filter_chain_match: %d", verdict(err), n)
	return o.failed(statErr)
}

func mtlsUnderStrict(ctx context.Context, _ *mesh) outcome {
	o := outcome{what: "the same STRICT port through the sidecar", expected: "answered"}
	_, err := exchange(ctx, viaStrict)
	o.ok, o.seen = err == nil, verdict(err)
	return o.failed(err)
}

// wrongIdentity: the cluster expects another SPIFFE ID than the server has.
func wrongIdentity(ctx context.Context, m *mesh) outcome {
	o := outcome{what: "the server is not who the client expects", expected: "refused, naming both IDs"}
	_, err := exchange(ctx, viaWrongID)
	line, logErr := m.client.accessLine(ctx, "payments", "spiffe://cluster.local/ns/dev/sa/default", "spiffe://cluster.local/ns/dev/sa/payments")
	o.ok = err != nil && logErr == nil
	if _, reason, found := strings.Cut(line, "URX"); found {
		line = reason
	}
	o.seen = words(strings.TrimLeft(line, " 0"))
	return o.failed(logErr)
}

// words undoes what a text log does to a reason, which is one word there.
func words(reason string) string { return strings.ReplaceAll(reason, "_", " ") }

// How the rotation is done: this many callers, each on a new connection for
// every exchange, while both certificates are renewed again and again, and the
// authority's root is replaced.
const (
	rotationCallers = 8
	rotationsSeen   = 4 // of the client, at least
	rotationLimit   = 45 * time.Second
)

func rotationUnderLoad(ctx context.Context, m *mesh) outcome {
	o := outcome{
		what:     fmt.Sprintf("certificates of %s, renewed by request, and a new root, under load", certificateLife),
		expected: "no failure; new certificates, of the new root, in use",
	}
	before, err := m.client.roots(ctx)
	if err == nil {
		_, err = m.admin(ctx, "ca", "rotate-root", "--state", m.state(), "--overlap", "0s")
	}
	if err != nil {
		return o.failed(err)
	}
	l := startLoad(ctx)
	var after []string
	for end := time.Now().Add(rotationLimit); time.Now().Before(end) && ctx.Err() == nil; {
		pause(ctx, 200*time.Millisecond)
		if after, err = m.client.roots(ctx); err == nil && !slices.Equal(after, before) && len(after) == 1 {
			break
		}
	}
	pause(ctx, certificateLife/2)
	l.stop()
	serials := m.server.peerSerials(ctx)
	o.ok = err == nil && l.failures.Load() == 0 && l.calls.Load() > 0 && serials >= rotationsSeen && len(after) == 1 && after[0] != before[0]
	o.seen = fmt.Sprintf("%d exchanges, %d failed; %d client certificates seen; root %.8s, then %.8s", l.calls.Load(), l.failures.Load(), serials, before, after)
	return o.failed(err, l.firstError())
}

// load is callers that go on until it is stopped.
type load struct {
	calls, failures atomic.Int64
	first           atomic.Pointer[error]
	wait            sync.WaitGroup
	cancel          context.CancelFunc
}

func startLoad(ctx context.Context) *load {
	l := &load{}
	running, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	for range rotationCallers {
		l.wait.Go(func() {
			for running.Err() == nil {
				if _, err := exchange(ctx, viaMTLS); err != nil {
					l.failures.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
				l.calls.Add(1)
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.cancel()
	l.wait.Wait()
}

func (l *load) firstError() error {
	if err := l.first.Load(); err != nil {
		return fmt.Errorf("the first failure: %w", *err)
	}
	return nil
}

// failed puts an error in the row.
func (o outcome) failed(errs ...error) outcome {
	for _, err := range errs {
		if err != nil {
			o.ok = false
			o.seen += " " + err.Error()
		}
	}
	return o
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
