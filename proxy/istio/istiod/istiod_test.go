package istiod_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"outrider/certs/csr"
	"outrider/proxy/istio/istiod"
	"outrider/proxy/istio/istiod/istiodtest"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 10 * time.Second

func web() spiffeid.ID { return spiffeid.RequireFromString("spiffe://cluster.local/ns/dev/sa/web") }

// rig is a client of configuration from an istiod of the test.
type rig struct {
	t      *testing.T
	istiod *istiodtest.Istiod
	replay *xdstest.Replay
	opts   csr.Options
	plane  *istiod.Transport
	log    *journal

	mu   sync.Mutex
	cert *tls.Certificate // guarded by mu; what is shown
}

// journal is a log that may be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.ReplaceAll(j.b.String(), `\"`, `"`)
}

// newRig makes one with a good token and a good root; change may spoil it.
func newRig(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, log: &journal{}, replay: xdstest.NewReplay(t, "../../config/decode/testdata/istiod/permissive-uc-delta", true)}
	r.istiod = istiodtest.New(t, istiodtest.Options{Serves: func(string) *xdstest.Script { return r.replay.Script() }})
	dir := t.TempDir()
	r.opts = csr.Options{
		Address: r.istiod.Address(), ServerName: istiodtest.Name, Trust: csr.Trust{RootFile: r.istiod.Root(t, dir)},
		TokenPath: r.istiod.Token(t, dir, web()), ID: web(),
	}
	r.opts.Certificate = func() (*tls.Certificate, error) { return r.shown(), nil }
	if change != nil {
		change(r)
	}
	return r
}

func (r *rig) shown() *tls.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cert
}

// certify gets a certificate from an istiod, and shows it from then on.
func (r *rig) certify(from csr.Options) {
	r.t.Helper()
	from.Certificate = nil
	c, err := csr.New(from)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	issued, err := c.Issue(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.cert = &issued.KeyPair.TLS
	r.mu.Unlock()
}

// run asks for clusters until the test ends.
func (r *rig) run() *rig {
	r.t.Helper()
	var err error
	if r.plane, err = istiod.New(r.opts); err != nil {
		r.t.Fatal(err)
	}
	client := xds.New(xds.Options{
		Transport: r.plane, Server: "istiod", Delta: true, Node: &corev3.Node{Id: "web"}, NodeOnce: true, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	client.Register(xds.Type{URL: xds.ClusterType, Apply: func(xds.Update) map[string]error { return nil }})
	if err := client.Subscribe(xds.ClusterType, xds.Wildcard); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Run(ctx) // ends with ctx
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return r
}

// until polls until ok.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s within %s:\n%s", what, patience, r.log)
		}
	}
}

// served waits for n streams that were accepted, the last of them configured,
// and returns how the last one was proved.
func (r *rig) served(n int) istiodtest.Stream {
	r.t.Helper()
	r.until("configuration", func() bool {
		all := r.istiod.Streams()
		return len(all) >= n && all[n-1].Node != "" && r.replay.Acked(xds.ClusterType) >= n
	})
	return r.istiod.Streams()[n-1]
}

// says waits for a line of the log that has all the words.
func (r *rig) says(words ...string) {
	r.t.Helper()
	r.until("line with "+strings.Join(words, ", "), func() bool {
		for line := range strings.Lines(r.log.String()) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return true
			}
		}
		return false
	})
}

func TestATokenIsEnoughForConfiguration(t *testing.T) {
	s := newRig(t, nil).run().served(1)
	if s.ID != web() || strings.HasPrefix(s.How, "certificate") || s.Node != "web" {
		t.Errorf("%+v", s)
	}
}

func TestACertificateIsEnoughForConfiguration(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.certify(r.opts)
		r.opts.TokenPath = ""
	}).run()
	if s := r.served(1); s.ID != web() || !strings.HasPrefix(s.How, "certificate") {
		t.Errorf("%+v", s)
	}
}

func TestWithoutProofTheErrorSaysWhatWasShown(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.TokenPath = filepath.Join(t.TempDir(), "none") }).run()
	r.says("Unauthenticated", "we sent no token", "none does not exist", "presented no client certificate")
}

func TestATokenThatIsRefusedIsReadAgainAtTheNextStream(t *testing.T) {
	r := newRig(t, nil)
	good, err := os.ReadFile(r.opts.TokenPath)
	if err != nil {
		t.Fatal(err)
	}
	istiodtest.Write(t, r.opts.TokenPath, "not.a.token-at-all")
	r.run()
	r.says("no xDS stream", `authority "`+r.opts.Address+`"`, "Unauthenticated", "we sent the token of "+r.opts.TokenPath)
	if strings.Contains(r.log.String(), "token-at-all") {
		t.Errorf("the token is in the log:\n%s", r.log)
	}
	if n := len(r.istiod.Streams()); n != 0 {
		t.Fatalf("%d streams were accepted", n)
	}
	istiodtest.Write(t, r.opts.TokenPath, string(good))
	r.served(1)
}

func TestAnIstiodOfAnotherRootIsNotTold(t *testing.T) {
	other := istiodtest.New(t, istiodtest.Options{})
	r := newRig(t, func(r *rig) { r.opts.Trust.RootFile = other.Root(t, t.TempDir()) }).run()
	r.says("the authority is not", istiodtest.Name, "certificate signed by unknown authority")
	if n := len(r.istiod.Streams()); n != 0 {
		t.Errorf("%d streams", n)
	}
	// The right root mends it, without a restart.
	if err := os.Rename(r.istiod.Root(t, t.TempDir()), r.opts.Trust.RootFile); err != nil {
		t.Fatal(err)
	}
	r.served(1)
}

func TestAnIstiodOfAnotherNameIsNotTold(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.ServerName = "other.example" }).run()
	r.says(`the authority is not "other.example"`, "valid for "+istiodtest.Name)
}

func TestAnIstiodThatComesBackSendsNothingThatIsKnown(t *testing.T) {
	r := newRig(t, func(r *rig) { r.certify(r.opts) }).run()
	r.served(1)
	if err := os.Remove(r.opts.TokenPath); err != nil { // as a token that was used up
		t.Fatal(err)
	}
	r.istiod.Stop()
	r.says("no xDS stream, what was before goes on")
	r.istiod.Start(t)
	s := r.served(2)
	if want := len(r.replay.Names(xds.ClusterType)); s.Have != want {
		t.Errorf("the client says that it has %d clusters, not %d", s.Have, want)
	}
	if !strings.HasPrefix(s.How, "certificate") {
		t.Errorf("proved by %q", s.How)
	}
}

func TestACertificateThatIsNotTakenGivesWayToTheToken(t *testing.T) {
	other := istiodtest.New(t, istiodtest.Options{})
	r := newRig(t, func(r *rig) {
		dir := t.TempDir()
		from := r.opts
		from.Address, from.TokenPath = other.Address(), other.Token(t, dir, web())
		from.Trust.RootFile = other.Root(t, dir)
		r.certify(from) // of a mesh that this istiod does not know
	}).run()
	s := r.served(1)
	if strings.HasPrefix(s.How, "certificate") {
		t.Errorf("proved by %q", s.How)
	}
	r.says("remote error: tls", "presented the client certificate of")
	// A good one is shown again.
	r.certify(r.opts)
	r.istiod.Stop()
	r.istiod.Start(t)
	r.until("a stream that is proved by certificate", func() bool {
		return slices.ContainsFunc(r.istiod.Streams(), func(s istiodtest.Stream) bool { return strings.HasPrefix(s.How, "certificate") })
	})
}

func TestHealthIsReportedAtOnceAndOnEachStream(t *testing.T) {
	r := newRig(t, nil).run()
	r.served(1)
	r.plane.Report(istiod.Report{})
	r.until("a report", func() bool { return len(r.istiod.Reports()) == 1 })
	r.plane.Report(istiod.Report{Err: errors.New("the application answers 500")})
	r.until("another", func() bool { return len(r.istiod.Reports()) == 2 })
	r.istiod.Stop()
	r.istiod.Start(t)
	r.until("the last report anew", func() bool { return len(r.istiod.Reports()) == 3 })
	sick := istiodtest.Report{Node: "web", Problem: "the application answers 500"}
	if got, want := r.istiod.Reports(), []istiodtest.Report{{Node: "web"}, sick, sick}; !slices.Equal(got, want) {
		t.Errorf("reports %v, want %v", got, want)
	}
}
