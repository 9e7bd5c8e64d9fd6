package istioca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	security "istio.io/api/security/v1alpha1"
)

// The limits of a server that its configuration does not name.
const (
	DefaultTTL    = 24 * time.Hour      // istiod's DEFAULT_WORKLOAD_CERT_TTL
	DefaultMaxTTL = 90 * 24 * time.Hour // istiod's MAX_WORKLOAD_CERT_TTL

	// DefaultRate and DefaultBurst are for one identity at one address: a
	// workload asks twice a day, but many may share both.
	DefaultRate  = 50.0
	DefaultBurst = 200

	// A request has a signing request of some hundred bytes, or two thousand
	// with a big RSA key; headers have a token.
	maxMessageBytes = 64 << 10
	maxHeaderBytes  = 32 << 10
	maxStreams      = 100 // of one connection
	maxConcurrent   = 256 // requests of all connections

	handshakeTimeout = 10 * time.Second
	// Who asks again asks over a new connection, with the certificate and the
	// roots that it has by then: istio's agent reads them for a connection only.
	maxIdle      = 5 * time.Second
	drainTimeout = 5 * time.Second // for requests that had begun
	// upkeepEvery bounds how late the log tells of a phase of a rotation, and
	// how late the old key is deleted. Answers never wait for it.
	upkeepEvery = time.Second
)

// ServerConfig is how certificates are given out.
type ServerConfig struct {
	// Names and IPs are the server's own, for its serving certificate.
	Names []string
	IPs   []net.IP
	// DefaultTTL is for who asks for no life, MaxTTL the longest. 0 is
	// DefaultTTL or DefaultMaxTTL; a DefaultTTL beyond MaxTTL is refused.
	DefaultTTL, MaxTTL time.Duration
	// Issuers are believed beside the authority's own tokens.
	Issuers []TokenIssuer
	// Audiences are what a token may be for; none is DefaultAudience.
	Audiences []string
	// Rate and Burst limit the requests of one identity at one address, in
	// requests a second; 0 is DefaultRate or DefaultBurst.
	Rate  float64
	Burst int
	Log   *slog.Logger
}

// Server is the gRPC service.
type Server struct {
	security.UnimplementedIstioCertificateServiceServer

	authority          *Authority
	log                *slog.Logger
	tokens             *tokens
	defaultTTL, maxTTL time.Duration
	callers, strangers *limiter
	slots              chan struct{} // one for each request that is being answered
	names              []string
	ips                []net.IP

	mu      sync.Mutex
	serving *tls.Certificate // guarded by mu
	signer  string           // guarded by mu; who signed it
	renewAt time.Time        // guarded by mu; half of its life is over
}

// NewServer makes the service of an authority.
func NewServer(a *Authority, c ServerConfig) (*Server, error) {
	s := &Server{
		authority: a, log: c.Log, names: c.Names, ips: c.IPs, slots: make(chan struct{}, maxConcurrent),
		defaultTTL: orElse(c.DefaultTTL, DefaultTTL), maxTTL: orElse(c.MaxTTL, DefaultMaxTTL),
		tokens: &tokens{td: a.td, audiences: c.Audiences},
	}
	rate, burst := orElse(c.Rate, DefaultRate), orElse(c.Burst, DefaultBurst)
	s.callers, s.strangers = newLimiter(rate, burst), newLimiter(rate, burst)
	if len(c.Audiences) == 0 {
		s.tokens.audiences = []string{DefaultAudience}
	}
	if c.DefaultTTL == 0 {
		s.defaultTTL = min(s.defaultTTL, s.maxTTL)
	}
	switch {
	case s.defaultTTL < time.Second:
		return nil, fmt.Errorf("default TTL %s: certificates have whole seconds", s.defaultTTL)
	case s.defaultTTL > s.maxTTL:
		return nil, fmt.Errorf("default TTL %s: it is longer than the longest, %s", s.defaultTTL, s.maxTTL)
	case rate < 0 || burst < 0:
		return nil, fmt.Errorf("rate %g, burst %d: they must not be negative", rate, burst)
	case len(c.Names)+len(c.IPs) == 0:
		return nil, errors.New("the server needs a DNS name or an IP address of its own")
	}
	own := TokenIssuer{Issuer: ownIssuer(a.td), Keys: ownKeys{a.dir}}
	s.tokens.issuers = []TokenIssuer{own}
	for _, i := range c.Issuers {
		for _, known := range s.tokens.issuers {
			if i.Issuer == known.Issuer || i.Issuer == "" {
				return nil, fmt.Errorf("token issuer %q: it must be there, once", i.Issuer)
			}
		}
		s.tokens.issuers = append(s.tokens.issuers, i)
	}
	return s, nil
}

func orElse[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// Serve answers on l, which it closes, until ctx ends and the requests that
// had begun are answered. Another process that serves from the same state is a
// *BusyError.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	unlock, err := s.authority.dir.lockServe()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer unlock()
	if _, err := s.certificate(nil); err != nil {
		return errors.Join(fmt.Errorf("serving certificate: %w", err), l.Close())
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(s.tlsConfig())),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle}),
		// istio's client pings every 30 s at most.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	security.RegisterIstioCertificateServiceServer(server, s)
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(l)
		close(ended)
	}()
	s.log.Info("authority serves", "address", l.Addr().String(), "trust_domain", s.authority.td.Name(),
		"names", s.names, "ips", s.ips, "default_ttl", s.defaultTTL, "max_ttl", s.maxTTL)
	err = s.upkeep(ctx, ended)
	cut := time.AfterFunc(drainTimeout, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	return errors.Join(err, <-ended)
}

// upkeep follows the state until ctx or the server ends.
func (s *Server) upkeep(ctx context.Context, ended <-chan error) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	var told follower
	for {
		told.follow(s)
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-tick.C:
		}
	}
}

// follower is what the log was told of the state, to tell each thing once.
type follower struct {
	phase   Phase
	signer  string
	ending  string // the signer of whose end the log was told
	problem string
}

// follow logs what has changed in the plan, and forgets what a rotation has
// left.
func (f *follower) follow(s *Server) {
	state, err := s.authority.upkeep()
	if err != nil {
		if f.problem != err.Error() {
			s.log.Error("state cannot be followed", "error", err)
		}
		f.problem = err.Error()
		return
	}
	f.problem = ""
	plan := state.Plan(time.Now())
	id, ends := plan.Signer.ID(), plan.Signer.ends()
	if plan.Phase != f.phase || id != f.signer {
		log := s.log
		if !plan.Until.IsZero() {
			log = log.With("until", plan.Until.UTC())
		}
		log.Info("authority's phase", "phase", string(plan.Phase), "signer", id, "signer_not_after", ends.UTC(), "roots", len(plan.Roots))
	}
	if f.phase, f.signer = plan.Phase, id; f.ending != id && time.Until(ends) < s.maxTTL {
		s.log.Warn("authority ends soon, certificates are shortened to its end: rotate-root makes another", "signer", id, "not_after", ends.UTC())
		f.ending = id
	}
}

// tlsConfig asks for a client certificate and verifies it at each request:
// see byCertificate.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: s.certificate, ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	}
}

// certificate is the serving certificate. It is made anew at the first
// handshake in the second half of its life, and when another issuer signs, so
// that neither a suspended machine nor a rotation leaves an old one. The root
// is presented too, for a client that knows only its pin, and the way back to
// the roots before.
func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	plan, err := s.authority.plan()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.serving != nil && s.signer == plan.Signer.ID() && now.Before(s.renewAt) && now.After(s.serving.Leaf.NotBefore) {
		return s.serving, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issued, err := s.authority.Issue(Order{DNS: s.names, IPs: s.ips, Public: key.Public(), TTL: s.defaultTTL, Caller: "itself"})
	if err != nil {
		s.log.Error("serving certificate is not renewed", "error", err)
		return nil, err
	}
	fresh := &tls.Certificate{PrivateKey: key, Leaf: issued.Cert}
	for _, c := range slices.Concat(issued.chain(), plan.Signer.anchors(), plan.Signer.legacy) {
		fresh.Certificate = append(fresh.Certificate, c.Raw)
	}
	s.serving, s.signer, s.renewAt = fresh, issued.Issuer, now.Add(issued.Cert.NotAfter.Sub(now)/2)
	return fresh, nil
}
