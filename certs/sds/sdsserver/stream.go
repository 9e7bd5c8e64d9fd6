package sdsserver

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
)

// stream is what both protocols share: which secrets a client asked for, and
// how far it is with each.
type stream struct {
	server *Server
	delta  bool
	since  time.Time
	wake   chan struct{} // has one element when a secret may have changed
	watch  sync.WaitGroup

	mu     sync.Mutex
	node   string                   // guarded by mu
	wanted map[string]*subscription // guarded by mu; by name
	nonces uint64                   // guarded by mu; counts answers, and so names each
}

// subscription is one secret on one stream.
type subscription struct {
	handle  *certs.Handle
	stop    context.CancelFunc
	sent    string     // the version that the client has got last
	pending []delivery // what it has not answered for, oldest first
	acked   string     // version
	refused string     // version
	reason  string     // of its last NACK; "" after an ACK
	when    time.Time  // of that NACK
	unsent  string     // the version that cannot be sent
	unfit   string     // why
}

// delivery is one version on its way to a client.
type delivery struct {
	nonce   uint64
	version string
}

// maxPending bounds what is remembered of a client that reads and never
// answers.
const maxPending = 8

// resource is a secret as it goes out.
type resource struct {
	name, version string
	packed        *anypb.Any
}

func newStream(s *Server, delta bool) *stream {
	return &stream{server: s, delta: delta, since: time.Now(), wake: make(chan struct{}, 1), wanted: map[string]*subscription{}}
}

// protocol is what differs between the two.
type protocol[R any] struct {
	receive func() (R, error) // blocks for one request
	take    func(context.Context, R) error
	send    func([]resource, string) error
}

// run answers a client until its stream or ctx ends.
func run[R any](ctx context.Context, st *stream, p protocol[R]) error {
	ctx, cancel := context.WithCancel(ctx)
	st.server.add(st)
	defer func() {
		cancel()
		st.server.remove(st)
		st.watch.Wait()
	}()
	requests, broken := make(chan R), make(chan error, 1)
	st.server.receivers.Go(func() { // gRPC ends receive when this call returns
		for {
			r, err := p.receive()
			if err != nil {
				broken <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case r := <-requests:
			if err := p.take(ctx, r); err != nil {
				return err
			}
		case <-st.wake:
		}
		if due, nonce := st.due(); len(due) > 0 {
			if err := p.send(due, nonce); err != nil {
				return err
			}
		}
	}
}

// subscribe adds names, those that it has already as well. A client may ask for
// what is not known yet. Names that can never be secrets end a stream that asks
// for nothing else: Envoy, which has a stream for each secret, logs why and
// tries again with back-off, and its other secrets do not notice. On a stream
// that asks for others they are passed over.
func (st *stream) subscribe(ctx context.Context, names []string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	var wrong []error
	for _, name := range names {
		if st.wanted[name] != nil {
			continue
		}
		if len(st.wanted) >= maxNames {
			return status.Errorf(codes.ResourceExhausted, "a stream can ask for %d secrets", maxNames)
		}
		h, err := st.server.lookup(name, st.node)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		st.wanted[name] = &subscription{handle: h, stop: cancel}
		st.watch.Go(func() { st.follow(ctx, h) })
	}
	if len(wrong) > 0 && len(st.wanted) == 0 {
		return status.Error(codes.InvalidArgument, errors.Join(wrong...).Error())
	}
	return nil
}

// follow wakes the stream at each change of a secret.
func (st *stream) follow(ctx context.Context, h *certs.Handle) {
	for {
		changed := h.Changed()
		select {
		case st.wake <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// unsubscribe takes names away that keep says no to.
func (st *stream) unsubscribe(keep func(name string) bool) {
	st.mu.Lock()
	for name, sub := range st.wanted {
		if !keep(name) {
			sub.stop()
			delete(st.wanted, name)
		}
	}
	st.mu.Unlock()
	st.server.progress()
}

// due are the secrets that the client does not have yet, as they are now, and
// the nonce to send them with.
func (st *stream) due() ([]resource, string) {
	st.mu.Lock()
	var out []resource
	unfit := false
	for _, name := range slices.Sorted(maps.Keys(st.wanted)) {
		sub := st.wanted[name]
		s, err := sub.handle.Current()
		if err != nil || s.Version == sub.sent || s.Version == sub.unsent {
			continue
		}
		packed, err := pack(name, s)
		if err != nil {
			st.server.opts.Log.Error("secret cannot be sent", "secret", name, "version", s.Version, "node", st.node, "reason", err)
			sub.unsent, sub.unfit, unfit = s.Version, err.Error(), true
			continue
		}
		if d := doubt(s); d != "" {
			st.server.opts.Log.Warn("secret may be of no use to the client", "secret", name, "version", s.Version, "node", st.node, "reason", d)
		}
		sub.unsent, sub.unfit, sub.sent = "", "", s.Version
		sub.pending = append(sub.pending, delivery{st.nonces + 1, s.Version})
		if len(sub.pending) > maxPending {
			sub.pending = slices.Delete(sub.pending, 0, 1)
		}
		out = append(out, resource{name, s.Version, packed})
	}
	if len(out) > 0 {
		st.nonces++
	}
	nonce := strconv.FormatUint(st.nonces, 10)
	st.mu.Unlock()
	if unfit {
		st.server.progress()
	}
	return out, nonce
}

// answered takes an ACK, or a NACK with its reason, of the answer with that
// nonce, which others may have followed. It reports whether it is for the last
// one: the names beside another are stale (xDS protocol). Before the first
// answer no nonce is, for it is of another stream.
func (st *stream) answered(nonce, refusal string) bool {
	st.mu.Lock()
	n, err := strconv.ParseUint(nonce, 10, 64)
	last := err == nil && n == st.nonces || st.nonces == 0
	for _, name := range slices.Sorted(maps.Keys(st.wanted)) {
		sub := st.wanted[name]
		i := slices.IndexFunc(sub.pending, func(d delivery) bool { return err == nil && d.nonce == n })
		if i < 0 {
			continue
		}
		version := sub.pending[i].version
		sub.pending = slices.Delete(sub.pending, 0, i+1)
		if refusal == "" {
			sub.acked, sub.refused, sub.reason, sub.when = version, "", "", time.Time{}
			continue
		}
		if sub.refused != version { // it may have asked for it again
			st.server.opts.Log.Error("client refuses a secret", "secret", name, "version", version, "node", st.node, "reason", refusal)
		}
		sub.refused, sub.reason, sub.when = version, refusal, time.Now()
	}
	st.mu.Unlock()
	st.server.progress()
	return last
}

// resend forgets what was sent of those names.
func (st *stream) resend(names []string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, name := range names {
		if sub := st.wanted[name]; sub != nil {
			sub.sent = ""
		}
	}
}

// known has a delta client's word for what it has from before.
func (st *stream) known(versions map[string]string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for name, version := range versions {
		if sub := st.wanted[name]; sub != nil {
			sub.sent, sub.acked = version, version
		}
	}
}

// owes reports whether the client has still to answer for the current version
// of a secret.
func (st *stream) owes(name string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	sub := st.wanted[name]
	if sub == nil {
		return false
	}
	s, err := sub.handle.Current()
	return err == nil && s.Version != sub.acked && s.Version != sub.refused && s.Version != sub.unsent
}

// identify takes the node's id from a request that has it.
func (st *stream) identify(node string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if node != "" {
		st.node = node
	}
}

func (st *stream) status() ClientStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := ClientStatus{Node: st.node, Delta: st.delta, Since: st.since}
	for _, name := range slices.Sorted(maps.Keys(st.wanted)) {
		sub := st.wanted[name]
		out.Secrets = append(out.Secrets, SecretStatus{
			Name: name, Sent: sub.sent, Acked: sub.acked, Refused: sub.reason, RefusedAt: sub.when, Unsent: sub.unfit,
		})
	}
	return out
}
