package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outrider/certs"
	"outrider/proxy/admin"
)

// certsFlags say whom to ask.
type certsFlags struct {
	admin   string
	timeout time.Duration
	json    bool
}

func newCertsCommand() *cobra.Command {
	var f certsFlags
	c := &cobra.Command{
		Use:   "certs [--admin ADDRESS|unix:PATH]",
		Short: "Show each secret of a running proxy or agent: whose it is, how long it is good, when it is renewed, what failed",
		RunE: func(c *cobra.Command, _ []string) error {
			return showCerts(c.Context(), f, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.admin, "admin", "127.0.0.1:15000", "the admin interface of a proxy, or the status address of an agent: HOST:PORT, or unix:PATH of a socket")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	fs.BoolVar(&f.json, "json", false, "print JSON")
	return c
}

// showCerts prints the table. Its error is silent if a secret is of no use, for
// the table says so.
func showCerts(ctx context.Context, f certsFlags, stdout, stderr io.Writer) error {
	status, err := f.ask(ctx)
	if err != nil {
		return fmt.Errorf("--admin %s: %w", f.admin, err)
	}
	if f.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(status)
	} else {
		err = certs.Table(stdout, status.Secrets, status.Time)
	}
	if err != nil {
		return err
	}
	bad := 0
	for _, s := range status.Secrets {
		if s.State.Bad() {
			bad++
		}
	}
	if bad > 0 {
		fmt.Fprintf(stderr, "outrider: %d of %d secrets are expired, missing or not valid yet\n", bad, len(status.Secrets))
		return silentError{}
	}
	return nil
}

// maxStatus bounds the answer: a thousand bundles of a dozen roots are under
// 8 MiB.
const maxStatus = 16 << 20

func (f *certsFlags) ask(ctx context.Context) (*admin.CertsStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	client, host := f.client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/certs/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET /certs/status: %s", resp.Status)
	case len(body) > maxStatus:
		return nil, fmt.Errorf("GET /certs/status: the answer is longer than %d bytes", maxStatus)
	}
	var status admin.CertsStatus
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("GET /certs/status: %w", err)
	}
	if status.Time.IsZero() {
		return nil, errors.New("GET /certs/status: the answer is of something else than outrider")
	}
	return &status, nil
}

// client connects to the address, and to nothing else: no proxy, no redirect.
func (f *certsFlags) client() (client *http.Client, host string) {
	network, address := "tcp", strings.TrimPrefix(f.admin, "http://")
	host = address
	if path, ok := strings.CutPrefix(f.admin, "unix:"); ok {
		network, address, host = "unix", strings.TrimPrefix(path, "//"), "localhost"
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, host
}
