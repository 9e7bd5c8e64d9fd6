package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"outrider/certs/agent"
	"outrider/proxy/admin"
)

func newAgentCommand() *cobra.Command {
	var f agentFlags
	var level, status string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Keep a workload's certificates fresh and serve them over SDS, to outrider or to Envoy",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := parseLevel(level)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: l}))
			id, idErr := f.id()
			a, err := f.agent(id, idErr, log)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return runAgent(ctx, a, status, log)
		},
	}
	f.register(c)
	fs := c.Flags()
	fs.StringVarP(&level, "log-level", "l", "info", "trace, debug, info, warning, error, critical or off")
	fs.StringVar(&status, "status-address", "127.0.0.1:15020", "where /healthz/ready and /certs/status are served; \"\" serves none")
	return c
}

// runAgent runs a with its status pages until ctx ends.
func runAgent(ctx context.Context, a *agent.Agent, status string, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	if status != "" {
		ln, err := net.Listen("tcp", status)
		if err != nil {
			return fmt.Errorf("--status-address: %w", err)
		}
		group.Go(func() error { return serveStatus(ctx, ln, a, log) })
	}
	return group.Wait()
}

// statusTimeout bounds how long a request may take to come in.
const statusTimeout = 10 * time.Second

func serveStatus(ctx context.Context, ln net.Listener, a *agent.Agent, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET /certs/status", admin.CertsStatusHandler(a.Handles))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: statusTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
