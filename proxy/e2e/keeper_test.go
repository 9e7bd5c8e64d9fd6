//go:build envoy

package e2e

import (
	"context"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
	"outrider/certs/sds/sdsserver"
)

// workload is an agent as it stands beside a proxy: a keeper and files behind
// our SDS server. The test is its authority.
type workload struct {
	t      *testing.T
	id     spiffeid.ID
	keeper *identity.Keeper
	files  *identity.FileSecrets
	server *sdsserver.Server
	log    *lockedBuffer

	mu   sync.Mutex
	made map[string]*certs.Handle // guarded by mu; what the test made itself, by name
}

// beside serves id's secrets on the socket in dir where the configurations look
// for it.
func beside(t *testing.T, dir, id string) *workload {
	t.Helper()
	w := &workload{t: t, id: spiffeid.RequireFromString(id), log: &lockedBuffer{}, made: map[string]*certs.Handle{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.server = sdsserver.New(sdsserver.Options{Secret: w.lookup, Log: log})
	w.keeper = identity.NewKeeper(identity.Options{TrustDomain: w.id.TrustDomain(), Settled: w.server.Settled, Log: log})
	w.files = identity.NewFileSecrets(identity.FileSecretsOptions{Log: log})
	ln, err := sdsserver.Listen(filepath.Join(dir, "sds"), sdsserver.Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.server.Serve(ctx, ln); err != nil {
			t.Errorf("SDS: %v", err)
		}
	})
	running.Go(func() { w.files.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if t.Failed() {
			t.Logf("the agent of %s said:\n%s", id, tail(w.log.String(), 40))
		}
	})
	return w
}

func (w *workload) lookup(name string) (*certs.Handle, error) {
	w.mu.Lock()
	h := w.made[name]
	w.mu.Unlock()
	switch {
	case h != nil:
		return h, nil
	case identity.IsFileName(name):
		return w.files.Handle(name)
	}
	return w.keeper.Handle(name)
}

// handle makes a secret that only the test feeds.
func (w *workload) handle(name string) *certs.Handle {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := certs.NewHandle(certs.Ref{Name: name})
	w.made[name] = h
	return h
}

// trust makes roots the whole of the workload's own trust domain.
func (w *workload) trust(roots ...*ca.CA) {
	w.t.Helper()
	w.trustAll(bundleOf(w.id.TrustDomain(), roots...))
}

func (w *workload) trustAll(bundles ...identity.Bundle) {
	w.t.Helper()
	if err := w.keeper.Trust("test", bundles...); err != nil {
		w.t.Fatal(err)
	}
}

func bundleOf(td spiffeid.TrustDomain, roots ...*ca.CA) identity.Bundle {
	out := identity.Bundle{TrustDomain: td}
	for _, r := range roots {
		out.Roots = append(out.Roots, r.Cert)
	}
	return out
}

// serve has a new certificate issued, and serves it.
func (w *workload) serve(by *ca.CA) *x509.Certificate {
	w.t.Helper()
	pair := issuePair(w.t, by, w.id.String())
	if err := w.keeper.Serve(w.t.Context(), "test", time.Time{}, pair); err != nil {
		w.t.Fatal(err)
	}
	return pair.TLS.Leaf
}

func issuePair(t *testing.T, by *ca.CA, id string) *certs.KeyPair {
	t.Helper()
	issued, err := by.Issue(ca.Leaf{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// settle waits until the proxy has answered for a secret.
func (w *workload) settle(name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := w.server.Settled(ctx, name); err != nil {
		w.t.Fatal(err)
	}
}

// secret is the state of a secret at the proxy.
func (w *workload) secret(name string) sdsserver.SecretStatus {
	for _, c := range w.server.Clients() {
		for _, s := range c.Secrets {
			if s.Name == name {
				return s
			}
		}
	}
	return sdsserver.SecretStatus{}
}

// unrefused fails the test if the proxy has refused anything.
func (w *workload) unrefused() {
	w.t.Helper()
	if log := w.log.String(); strings.Contains(log, "level=ERROR") {
		w.t.Errorf("the agent of %s had errors:\n%s", w.id, log)
	}
}

// load calls a proxy from several sides at once until the test's end.
type load struct {
	t       *testing.T
	callers []*caller
}

type caller struct {
	mu    sync.Mutex
	began int           // guarded by mu; counts calls
	done  int           // guarded by mu
	moved chan struct{} // guarded by mu; closed at the end of the next call
}

// startLoad makes one call after the other in each of n goroutines. Any that
// fails, fails the test. stop ends them.
func startLoad(t *testing.T, addr string, n int) (l *load, stop func()) {
	l = &load{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range n {
		c := &caller{moved: make(chan struct{})}
		l.callers = append(l.callers, c)
		running.Go(func() {
			for ctx.Err() == nil {
				c.count(&c.began)
				if got, err := call(addr, "x"); got != "x" || err != nil {
					t.Errorf("a call under load: %q %v", got, err)
				}
				c.count(&c.done)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return l, stop
}

func (c *caller) count(what *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*what++
	close(c.moved)
	c.moved = make(chan struct{})
}

// round waits until every caller has ended a call that began after now.
func (l *load) round() {
	l.t.Helper()
	deadline := time.After(patience)
	for _, c := range l.callers {
		c.mu.Lock()
		want := c.began + 1
		c.mu.Unlock()
		for {
			c.mu.Lock()
			done, moved := c.done, c.moved
			c.mu.Unlock()
			if done >= want {
				break
			}
			select {
			case <-moved:
			case <-deadline:
				l.t.Fatalf("a caller makes no call within %s", patience)
			}
		}
	}
}

// calls are those that have ended.
func (l *load) calls() int {
	n := 0
	for _, c := range l.callers {
		c.mu.Lock()
		n += c.done
		c.mu.Unlock()
	}
	return n
}
