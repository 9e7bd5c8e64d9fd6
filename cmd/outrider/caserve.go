package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/ca/istioca"
)

// caServeFlags are those of `outrider ca serve`.
type caServeFlags struct {
	state               caState
	root                caRoot
	trustDomain, listen string
	sans                []string
	defaultTTL, maxTTL  time.Duration
	issuers, keySets    []string
	audiences           []string
	keySetCA, keySetJWT string
	rate                float64
	burst               int
	logLevel            string
}

func newCAServeCommand() *cobra.Command {
	var f caServeFlags
	c := &cobra.Command{
		Use:   "serve --state DIR",
		Short: "Answer certificate requests over gRPC and TLS",
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), c.ErrOrStderr())
		},
	}
	f.register(c)
	return c
}

func (f *caServeFlags) register(c *cobra.Command) {
	f.state.register(c)
	f.root.register(c)
	fs := c.Flags()
	fs.StringVar(&f.trustDomain, "trust-domain", "", "trust domain of all identities: of a new state \"cluster.local\" if not given, of another what it was")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:15012", "address to answer on")
	fs.StringSliceVar(&f.sans, "san", nil, "DNS name or IP address of the server, for its own certificate; may be repeated (default localhost, 127.0.0.1, ::1 and the address of --listen)")
	fs.DurationVar(&f.defaultTTL, "default-ttl", 0, "life of a certificate when none is asked for (default 24h, or --max-ttl if that is shorter)")
	fs.DurationVar(&f.maxTTL, "max-ttl", istioca.DefaultMaxTTL, "longest life that is given")
	fs.StringArrayVar(&f.issuers, "jwt-issuer", nil, "issuer (iss) whose tokens are believed; may be repeated, each with its --jwks")
	fs.StringArrayVar(&f.keySets, "jwks", nil, "file or https URL with the issuer's key set; one for each --jwt-issuer, in the same order")
	fs.StringArrayVar(&f.audiences, "jwt-audience", []string{istioca.DefaultAudience}, "audience (aud) that a token must be for; may be repeated")
	fs.StringVar(&f.keySetCA, "jwks-ca", "", "roots (PEM) of the servers of --jwks URLs, in place of the system's")
	fs.StringVar(&f.keySetJWT, "jwks-token", "", "file with a bearer token for --jwks URLs, read for each request")
	fs.Float64Var(&f.rate, "rate", istioca.DefaultRate, "requests a second of one identity at one address")
	fs.IntVar(&f.burst, "burst", istioca.DefaultBurst, "requests at once of one identity at one address")
	fs.StringVarP(&f.logLevel, "log-level", "l", "info", "trace, debug, info, warning, error, critical, off")
}

// run opens or makes the authority and serves until SIGTERM or SIGINT.
func (f *caServeFlags) run(ctx context.Context, stderr io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	level, err := parseLevel(f.logLevel)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	conf, err := f.config(log)
	if err != nil {
		return err
	}
	authority, err := f.open()
	if err != nil {
		return err
	}
	server, err := istioca.NewServer(authority, conf)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return server.Serve(ctx, l)
}

func (f *caServeFlags) check() error {
	if err := f.state.check(); err != nil {
		return err
	}
	switch {
	case len(f.issuers) != len(f.keySets):
		return &usageError{fmt.Errorf("there are %d --jwt-issuer and %d --jwks: each issuer needs its key set", len(f.issuers), len(f.keySets))}
	case f.defaultTTL < 0:
		return &usageError{fmt.Errorf("--default-ttl %s: it must not be negative", f.defaultTTL)}
	case f.maxTTL <= 0:
		return &usageError{fmt.Errorf("--max-ttl %s: it must be positive", f.maxTTL)}
	case f.rate <= 0 || f.burst <= 0:
		return &usageError{fmt.Errorf("--rate %g, --burst %d: they must be positive", f.rate, f.burst)}
	}
	return nil
}

func (f *caServeFlags) open() (*istioca.Authority, error) {
	root, err := f.root.load()
	if err != nil {
		return nil, err
	}
	conf := istioca.Config{Root: root}
	name := f.trustDomain
	if _, err := istioca.OpenExisting(f.state.path); errors.Is(err, istioca.ErrNoState) && name == "" {
		name = "cluster.local"
	}
	if name != "" {
		if conf.TrustDomain, err = spiffeid.TrustDomainFromString(name); err != nil {
			return nil, &usageError{fmt.Errorf("--trust-domain %q: %w", name, err)}
		}
	}
	return istioca.Open(f.state.path, conf)
}

func (f *caServeFlags) config(log *slog.Logger) (istioca.ServerConfig, error) {
	c := istioca.ServerConfig{
		DefaultTTL: f.defaultTTL, MaxTTL: f.maxTTL, Audiences: f.audiences, Rate: f.rate, Burst: f.burst, Log: log,
	}
	for _, san := range f.names() {
		if ip, err := netip.ParseAddr(san); err == nil {
			c.IPs = append(c.IPs, ip.AsSlice())
			continue
		}
		c.Names = append(c.Names, san)
	}
	client, err := f.keySetClient()
	if err != nil {
		return c, err
	}
	for n, issuer := range f.issuers {
		i := istioca.TokenIssuer{Issuer: issuer}
		if strings.Contains(f.keySets[n], "://") {
			i.Keys, err = istioca.NewKeyURL(istioca.KeyURLConfig{URL: f.keySets[n], Client: client, TokenFile: f.keySetJWT}, log)
		} else {
			i.Keys, err = istioca.NewKeyFile(f.keySets[n], log)
		}
		if err != nil {
			return c, fmt.Errorf("--jwks of --jwt-issuer %s: %w", issuer, err)
		}
		c.Issuers = append(c.Issuers, i)
	}
	return c, nil
}

// names are the server's own.
func (f *caServeFlags) names() []string {
	if len(f.sans) > 0 {
		return f.sans
	}
	out := []string{"localhost", "127.0.0.1", "::1"}
	if at, err := netip.ParseAddrPort(f.listen); err == nil && !at.Addr().IsUnspecified() && !at.Addr().IsLoopback() {
		return append(out, at.Addr().WithZone("").String())
	}
	if host, _, err := net.SplitHostPort(f.listen); err == nil && host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			out = append(out, host)
		}
	}
	return out
}

// keySetClient asks for key sets. It follows no redirect: the URL that was
// configured is the one that is trusted.
func (f *caServeFlags) keySetClient() (*http.Client, error) {
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, // one request in minutes
	}
	if f.keySetCA != "" {
		text, err := os.ReadFile(f.keySetCA)
		if err != nil {
			return nil, fmt.Errorf("--jwks-ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--jwks-ca %s: there is no certificate in it", f.keySetCA)
		}
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
