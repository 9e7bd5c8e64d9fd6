package sdsserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

	mu      sync.Mutex
	node    string                   // guarded by mu
	wanted  map[string]*subscription // guarded by mu; by name
	nonces  uint64                   // guarded by mu; counts answers
	sent    []string                 // guarded by mu; the names of the last answer
	unknown map[string]bool          // guarded by mu; names that were said to be none
}

// subscription is one secret on one stream.
type subscription struct {
	handle  *certs.Handle
	stop    context.CancelFunc
	sent    string // version
	acked   string
	refused string // version
	reason  string
	when    time.Time
}

func newStream(s *Server, delta bool) *stream {
	return &stream{server: s, delta: delta, since: time.Now(), wake: make(chan struct{}, 1), wanted: map[string]*subscription{}, unknown: map[string]bool{}}
}

// run answers a client until its stream or ctx ends. receive blocks for one
// request; take applies it, and send sends the secrets that are due.
func run[R any](ctx context.Context, st *stream, receive func() (R, error), take func(context.Context, R) error, send func([]*certs.Secret, string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	st.server.add(st)
	defer func() {
		cancel()
		st.server.remove(st)
		st.watch.Wait()
	}()
	requests, broken := make(chan R), make(chan error, 1)
	go func() { // it ends with the stream, whose context gRPC ends
		for {
			r, err := receive()
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
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return err
		case r := <-requests:
			if err := take(ctx, r); err != nil {
				return err
			}
		case <-st.wake:
		}
		if due, nonce := st.due(); len(due) > 0 {
			if err := send(due, nonce); err != nil {
				return err
			}
		}
	}
}

// subscribe adds a name. A client may ask for what is not known yet; for a name
// that can never be one, a stream that asks for nothing else ends, so that the
// client's log says why, and on others it is passed over.
func (st *stream) subscribe(ctx context.Context, name string) error {
	if name == "*" {
		return status.Error(codes.InvalidArgument, "secrets are asked for by name, not by *")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.wanted[name] != nil {
		return nil
	}
	h, err := st.server.opts.Secret(name)
	if err != nil {
		if !st.unknown[name] {
			st.unknown[name] = true
			st.server.opts.Log.Error("secret is not served", "secret", name, "node", st.node, "reason", err)
		}
		if len(st.wanted) == 0 {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	st.wanted[name] = &subscription{handle: h, stop: cancel}
	st.watch.Go(func() { st.follow(ctx, h) })
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
func (st *stream) due() ([]*certs.Secret, string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []*certs.Secret
	var names []string
	for _, name := range slices.Sorted(maps.Keys(st.wanted)) {
		sub := st.wanted[name]
		s, err := sub.handle.Current()
		if err != nil || s.Version == sub.sent {
			continue
		}
		sub.sent = s.Version
		out, names = append(out, s), append(names, name)
	}
	if len(out) > 0 {
		st.nonces++
		st.sent = names
	}
	return out, strconv.FormatUint(st.nonces, 10)
}

// answered takes an ACK, or a NACK with its reason, of the answer with that
// nonce. It reports whether the nonce is the last one's: others are stale.
func (st *stream) answered(nonce, refusal string) bool {
	st.mu.Lock()
	if nonce != strconv.FormatUint(st.nonces, 10) {
		st.mu.Unlock()
		return false
	}
	for _, name := range st.sent {
		sub := st.wanted[name]
		if sub == nil {
			continue
		}
		if refusal == "" {
			sub.acked, sub.refused, sub.reason = sub.sent, "", ""
			continue
		}
		if sub.refused != sub.sent {
			st.server.opts.Log.Error("client refuses a secret", "secret", name, "version", sub.sent, "node", st.node, "reason", refusal)
		}
		sub.refused, sub.reason, sub.when = sub.sent, refusal, time.Now()
	}
	st.mu.Unlock()
	st.server.progress()
	return true
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
	return err == nil && s.Version != sub.acked && s.Version != sub.refused
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
		out.Secrets = append(out.Secrets, SecretStatus{Name: name, Sent: sub.sent, Acked: sub.acked, Refused: sub.reason, RefusedAt: sub.when})
	}
	return out
}

// checkType refuses a request for anything but secrets.
func checkType(url string) error {
	if url != "" && url != secretType {
		return status.Errorf(codes.InvalidArgument, "%s is not served here, only %s", url, secretType)
	}
	return nil
}

// secretType is the type_url of a secret.
const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// known has a delta client's word for what it has from before.
func (st *stream) known(versions map[string]string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for name, version := range versions {
		if sub := st.wanted[name]; sub != nil && version != "" {
			sub.sent, sub.acked = version, version
		}
	}
}

// oneOf matches names of a list.
func oneOf(names []string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

// version is what an answer with several secrets is called.
func version(secrets []*certs.Secret) string {
	versions := make([]string, 0, len(secrets))
	for _, s := range secrets {
		versions = append(versions, s.Version)
	}
	return strings.Join(versions, ",")
}

// refusal is the text of a NACK, "" if it is none.
func refusal(code int32, message string, is bool) string {
	if !is {
		return ""
	}
	if message == "" {
		return fmt.Sprintf("without a reason (%s)", codes.Code(uint32(code))) //nolint:gosec // a gRPC code
	}
	return message
}
