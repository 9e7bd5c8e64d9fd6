// Package sdsserver serves a workload's secrets to the proxies beside it, over
// Envoy's Secret Discovery Service, as Istio's agent and SPIRE's do.
//
// Each stream has one goroutine that answers; it is woken by requests and by
// secrets that change. Nothing is queued: what is sent is what is current.
//
// A secret that is not known yet is sent when it comes; there is no empty
// answer, and none is ever taken away. A name that can never be one ends a
// stream that asks for nothing else with InvalidArgument, and is passed over on
// others. A request for all secrets ("*", or no name at first) is refused. What
// a client refuses is logged, and not sent again before the secret changes.
package sdsserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"outrider/certs"
)

// Options are a Server's.
type Options struct {
	// Secret is the handle of a name that a client asks for; an error says
	// that there never will be such a secret. It must give the same handle for
	// the same name.
	Secret func(name string) (*certs.Handle, error)
	Log    *slog.Logger
}

// Server serves the same secrets to every client that reaches its socket.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	opts      Options
	receivers sync.WaitGroup // the goroutines that read requests

	mu      sync.Mutex
	streams map[*stream]bool // guarded by mu
	moved   chan struct{}    // guarded by mu; closed at the next answer of a client
	said    map[string]bool  // guarded by mu; why names are not served, so far as it was logged
}

// New makes a server; Serve opens it.
func New(opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{opts: opts, streams: map[*stream]bool{}, moved: make(chan struct{}), said: map[string]bool{}}
}

// What clients may cost.
const (
	// maxRequest bounds one request: a thousand names are well under it.
	maxRequest = 1 << 20
	// maxNames bounds the secrets of one stream, and the names that are
	// remembered as none.
	maxNames = 1000
	// minPing is how often a client may ping: gRPC's own limit of 5 minutes
	// would end the connection of an Envoy that has a connection_keepalive.
	minPing = 50 * time.Millisecond
)

// Serve answers on ln until ctx ends; then it ends every stream, closes ln, and
// returns nil when all of its goroutines have ended. It may be called once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
	)
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(ln)
	server.Stop()
	s.receivers.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("SDS on %s: %w", ln.Addr(), err)
	}
	return nil
}

// lookup is the handle of a name. That there is none is logged once for each
// reason, for clients ask again and again.
func (s *Server) lookup(name, node string) (*certs.Handle, error) {
	h, err := s.opts.Secret(name)
	if err == nil {
		return h, nil
	}
	s.mu.Lock()
	said := s.said[err.Error()]
	if len(s.said) >= maxNames {
		clear(s.said)
	}
	s.said[err.Error()] = true
	s.mu.Unlock()
	if !said {
		s.opts.Log.Error("secret is not served", "secret", name, "node", node, "reason", err)
	}
	return nil, err
}

// add and remove keep the list of open streams.
func (s *Server) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = true
}

func (s *Server) remove(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	s.mu.Unlock()
	s.progress()
}

// progress wakes Settled.
func (s *Server) progress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.moved)
	s.moved = make(chan struct{})
}

// Settled waits until every client that asked for the secret of that name has
// answered for its current version, with an ACK or a NACK. If ctx ends first,
// the error names those that have not. It returns at once if no client asked
// for it.
func (s *Server) Settled(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		moved := s.moved
		var waiting []string
		for st := range s.streams {
			if st.owes(name) {
				waiting = append(waiting, strconv.Quote(st.status().Node))
			}
		}
		s.mu.Unlock()
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			slices.Sort(waiting)
			return fmt.Errorf("secret %q is not acknowledged by the clients %s: %w", name, strings.Join(waiting, ", "), ctx.Err())
		}
	}
}

// ClientStatus is one open stream: Envoy opens one for each secret.
type ClientStatus struct {
	// Node is the node's id as the client says it; "" if it said none.
	Node string
	// Delta says that the stream is incremental.
	Delta bool
	// Since is when the stream was opened.
	Since time.Time
	// Secrets are those that it asked for, in the order of their names.
	Secrets []SecretStatus
}

// SecretStatus is a secret as one client has it.
type SecretStatus struct {
	Name string
	// Sent and Acked are versions; "" is none.
	Sent, Acked string
	// Refused is the text of the last NACK, "" if the last answer was an ACK,
	// and RefusedAt when it came.
	Refused   string
	RefusedAt time.Time
	// Unsent is why the current version cannot be sent, "" if it can.
	Unsent string
}

// Clients are the open streams, by node and age.
func (s *Server) Clients() []ClientStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ClientStatus, 0, len(s.streams))
	for st := range s.streams {
		out = append(out, st.status())
	}
	slices.SortFunc(out, func(a, b ClientStatus) int {
		if c := strings.Compare(a.Node, b.Node); c != 0 {
			return c
		}
		return a.Since.Compare(b.Since)
	})
	return out
}
