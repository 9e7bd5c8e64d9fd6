// Package workload gets a workload's identity from the SPIFFE Workload API, as
// SPIRE's agent serves it: certificates, keys and bundles are pushed down one
// stream for as long as it is open.
//
// The agent renews; we only follow. What is pushed is checked whole and then
// taken whole: the bundles first, each for its own trust domain, then the
// certificates. An update that does not hold is refused, and what was there
// stays in use, as it does while the agent is away.
package workload

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"outrider/certs/identity"
)

// Options are a Source's.
type Options struct {
	// Address is the Workload API's: unix:///path, or tcp://ip:port. "" is the
	// environment's SPIFFE_ENDPOINT_SOCKET.
	Address string
	// DefaultID and DefaultHint say which of several certificates is the
	// default one, by its SPIFFE ID or by the hint that its registration entry
	// has; at most one may be set. An update without that one is refused, for
	// another would be another identity. With neither it is the first (SPIFFE
	// Workload API, section 5.3).
	DefaultID   spiffeid.ID
	DefaultHint string
	Log         *slog.Logger
}

// The waits between tries, from the first on. 30 s is go-spiffe's longest too.
// The agent is on this host, so that a try costs little.
const (
	firstWait = time.Second
	longWait  = 30 * time.Second
)

// fetchTimeout bounds one request for bundles alone. The agent has them in
// memory.
const fetchTimeout = 10 * time.Second

// Source follows the Workload API (identity.Source).
type Source struct {
	opts        Options
	from        string // for people, and the Keeper's name for our roots
	first, most time.Duration
}

// New checks the options; it does not connect.
func New(opts Options) (*Source, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Address == "" {
		opts.Address = os.Getenv(workloadapi.SocketEnv)
	}
	if opts.Address == "" {
		return nil, fmt.Errorf("workload API: there is no address, and $%s is not set", workloadapi.SocketEnv)
	}
	if err := workloadapi.ValidateAddress(opts.Address); err != nil {
		return nil, fmt.Errorf("workload API: address %q: %w", opts.Address, err)
	}
	if !opts.DefaultID.IsZero() && opts.DefaultHint != "" {
		return nil, fmt.Errorf("workload API: the default is named twice, by the ID %q and by the hint %q", opts.DefaultID, opts.DefaultHint)
	}
	if !opts.DefaultID.IsZero() && opts.DefaultID.Path() == "" {
		return nil, fmt.Errorf("workload API: the default ID %q is a trust domain, not a workload", opts.DefaultID)
	}
	if isRemote(opts.Address) {
		opts.Log.Warn("private keys come over the network in plaintext", "workload_api", opts.Address)
	}
	return &Source{opts: opts, from: "workload API " + opts.Address, first: firstWait, most: longWait}, nil
}

// isRemote says that a valid address is not of this host. The specification
// allows it, and leaves it to the network to keep others out (SPIFFE Workload
// Endpoint, section 3).
func isRemote(address string) bool {
	host, isTCP := strings.CutPrefix(address, "tcp://")
	if !isTCP {
		return false
	}
	ip, err := netip.ParseAddrPort(host)
	return err != nil || !ip.Addr().Unmap().IsLoopback()
}

// Run feeds k until ctx ends, and returns nil then. It connects again for ever,
// with growing, jittered waits. From now on k verifies each peer with the
// bundle of its own trust domain, as SPIFFE demands.
func (s *Source) Run(ctx context.Context, k *identity.Keeper) error {
	k.DemandTrustDomains()
	w := &watch{Source: s, keeper: k, backoff: newBackoff(s.first, s.most)}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(s.opts.Address),
		workloadapi.WithBackoffStrategy(w.backoff), workloadapi.WithDialOptions(s.dialOptions(k)...))
	if err != nil {
		return fmt.Errorf("%s: %w", s.from, err)
	}
	defer client.Close()
	w.client = client
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { k.TellExpiry(ctx) })
	for {
		// It ends with ctx, and also when the agent says Canceled or
		// InvalidArgument, which go-spiffe does not try again.
		_ = client.WatchX509Context(ctx, w.callbacks(ctx)) // the callbacks have had every error
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.backoff.Next()):
		}
	}
}

// dialOptions keep gRPC's own waits for the socket as short as ours, since it
// would wait two minutes, and let no proxy of the environment see the stream.
func (s *Source) dialOptions(k *identity.Keeper) []grpc.DialOption {
	waits := grpcbackoff.Config{BaseDelay: s.first, Multiplier: 1.6, Jitter: 0.2, MaxDelay: s.most}
	count := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		k.Attempt()
		return open(ctx, desc, cc, method, opts...)
	}
	return []grpc.DialOption{
		grpc.WithNoProxy(), grpc.WithStreamInterceptor(count),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: waits, MinConnectTimeout: s.most}),
	}
}

// watch is one Run.
type watch struct {
	*Source
	keeper  *identity.Keeper
	backoff *backoff
	client  *workloadapi.Client
	reason  string // why the last try brought nothing; "" if it did
}

// callbacks are what go-spiffe calls, one at a time.
func (w *watch) callbacks(ctx context.Context) callbacks {
	return callbacks{
		update: func(x *workloadapi.X509Context) { w.update(ctx, x) },
		failed: func(err error) { w.failed(ctx, err) },
	}
}

type callbacks struct {
	update func(*workloadapi.X509Context)
	failed func(error)
}

func (c callbacks) OnX509ContextUpdate(x *workloadapi.X509Context) { c.update(x) }
func (c callbacks) OnX509ContextWatchError(err error)              { c.failed(err) }

// update takes all of what was pushed, or refuses it.
func (w *watch) update(ctx context.Context, x *workloadapi.X509Context) {
	said, err := w.read(x)
	if err == nil {
		err = w.take(ctx, said)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.lacks(fmt.Errorf("%s: an update is refused: %w", w.from, err), time.Time{})
		return
	}
	w.reason = ""
	w.opts.Log.Info("identity is taken from the workload api", "spiffe_id", said.pairs[0].ID.String(),
		"ids", len(said.pairs), "trust_domains", len(said.bundles), "not_after", said.pairs[0].TLS.Leaf.NotAfter)
}

func (w *watch) take(ctx context.Context, said *content) error {
	if err := w.keeper.Trust(w.from, said.bundles...); err != nil {
		return err
	}
	return w.keeper.Serve(ctx, w.from, time.Time{}, said.pairs...)
}

// failed is called for what is no update: an answer that cannot be read, after
// which the stream goes on, or the end of the stream.
func (w *watch) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if !endsStream(err) {
		w.lacks(fmt.Errorf("%s: an update is refused: %w", w.from, err), time.Time{})
		return
	}
	if isDenied(err) && !w.hasCertificate() {
		err = w.bundlesOnly(ctx, err)
	}
	w.lacks(w.sentence(err), time.Now().Add(w.backoff.Upcoming()))
}

// hasCertificate says that what we were given before is still good.
func (w *watch) hasCertificate() bool {
	p := w.keeper.Pair()
	return p != nil && !isExpired(identity.ValidAt(p, time.Now()))
}

// bundlesOnly asks for what a workload may have that only verifies others
// (SPIRE: allow_unauthenticated_verifiers). It returns denied, which is why
// there is no certificate, with what else went wrong.
func (w *watch) bundlesOnly(ctx context.Context, denied error) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	set, err := w.client.FetchX509Bundles(ctx)
	if err != nil {
		if !isDenied(err) {
			return fmt.Errorf("%w; nor are there bundles: %w", denied, err)
		}
		return denied
	}
	said, err := readBundles(set)
	if err == nil {
		err = w.keeper.Trust(w.from, said...)
	}
	if err != nil {
		return fmt.Errorf("%w; its bundles are refused: %w", denied, err)
	}
	return &bundlesOnlyError{domains: len(said), err: denied}
}

// lacks records why a try brought nothing. A reason is logged loudly once, not
// at each of its tries.
func (w *watch) lacks(err error, next time.Time) {
	w.keeper.Fail(err, next)
	level := slog.LevelWarn
	if err.Error() == w.reason {
		level = slog.LevelDebug
	}
	w.reason = err.Error()
	attrs := []slog.Attr{slog.Any("reason", err)}
	if !next.IsZero() {
		attrs = append(attrs, slog.Time("next_try", next))
	}
	w.opts.Log.LogAttrs(context.Background(), level, "nothing is taken from the workload api", attrs...)
}
