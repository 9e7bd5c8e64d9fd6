// Package agent is what stands beside a workload's proxy for its identity: it
// keeps certificates fresh from one source and serves them over SDS, as
// Istio's agent does.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"outrider/certs"
	"outrider/certs/identity"
	"outrider/certs/sds/sdsserver"
)

// Config is what an Agent is made from.
type Config struct {
	// Source makes the source of the certificates. It is given the keeper that
	// it will feed: an authority is believed by the roots that are kept, too.
	Source func(*identity.Keeper) (identity.Source, error)
	// Roots are further sources, of roots only: federation.
	Roots []identity.Source
	// Identity is who the workload is; Settled is the agent's own.
	Identity identity.Options
	// Files serves file-cert: and file-root: names, which it keeps watched.
	Files identity.FileSecretsOptions
	// Socket is where SDS is served; "" serves none, for a proxy in this
	// process. SocketAccess says who may connect.
	Socket       string
	SocketAccess sdsserver.Access
	Log          *slog.Logger
}

// Agent is one workload's agent.
type Agent struct {
	cfg    Config
	keeper *identity.Keeper
	source identity.Source
	files  *identity.FileSecrets
	server *sdsserver.Server
	socket net.Listener // nil: none is served
}

// New makes an agent and opens its socket; it serves nothing before Run.
func New(cfg Config) (*Agent, error) {
	a := &Agent{cfg: cfg}
	a.server = sdsserver.New(sdsserver.Options{Secret: a.Secret, Log: cfg.Log})
	cfg.Identity.Settled, cfg.Identity.Log = a.server.Settled, cfg.Log
	a.keeper = identity.NewKeeper(cfg.Identity)
	a.files = identity.NewFileSecrets(cfg.Files)
	var err error
	if a.source, err = cfg.Source(a.keeper); err != nil {
		return nil, err
	}
	if cfg.Socket != "" {
		if a.socket, err = sdsserver.Listen(cfg.Socket, cfg.SocketAccess); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	return a, nil
}

// Secret is the secret of a name that a proxy asks for: those of the identity,
// and those of files.
func (a *Agent) Secret(name string) (*certs.Handle, error) {
	if identity.IsFileName(name) {
		return a.files.Handle(name)
	}
	return a.keeper.Handle(name)
}

// Feed feeds a proxy in this process, in place of its SDS stream (certs.Feed).
func (a *Agent) Feed(ctx context.Context, h *certs.Handle) {
	from, err := a.Secret(h.Ref().Name)
	if err != nil {
		h.Fail(err)
		return
	}
	h.Follow(from)
	for {
		changed := from.Changed()
		if s, err := from.Current(); err == nil {
			h.Publish(s)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Keeper is the identity that the agent keeps.
func (a *Agent) Keeper() *identity.Keeper { return a.keeper }

// Handles are the secrets that are kept, for status pages.
func (a *Agent) Handles() []*certs.Handle {
	return certs.SortByName(append(a.keeper.Handles(), a.files.Handles()...))
}

// Clients are those that have SDS streams open.
func (a *Agent) Clients() []sdsserver.ClientStatus { return a.server.Clients() }

// Ready is nil, or why the agent has no identity to serve.
func (a *Agent) Ready() error {
	for _, name := range []string{identity.DefaultName, identity.RootsName} {
		h, err := a.keeper.Handle(name)
		if err != nil {
			return err
		}
		if _, err := h.Current(); err != nil {
			return err
		}
	}
	return a.keeper.Expired()
}

// Run keeps the identity and serves it until ctx ends. It returns earlier only
// with the error of something that can never work.
func (a *Agent) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.source.Run(ctx, a.keeper) })
	for _, roots := range a.cfg.Roots {
		group.Go(func() error { return roots.Run(ctx, a.keeper) })
	}
	group.Go(func() error { return a.files.Run(ctx) })
	if a.socket != nil {
		group.Go(func() error { return a.server.Serve(ctx, a.socket) })
	}
	return group.Wait()
}
