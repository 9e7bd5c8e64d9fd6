package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newWaitCommand() *cobra.Command {
	var url string
	var timeout, period time.Duration
	var timeoutSeconds, requestTimeoutMillis, periodMillis int
	c := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the sidecar is ready: for a postStart hook, or before an application starts",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for name, given := range map[string]struct {
				n    int
				unit time.Duration
				d    *time.Duration
			}{"timeoutSeconds": {timeoutSeconds, time.Second, &timeout}, "periodMillis": {periodMillis, time.Millisecond, &period}} {
				if c.Flags().Changed(name) {
					*given.d = time.Duration(given.n) * given.unit
				}
			}
			if period <= 0 || timeout <= 0 || requestTimeoutMillis <= 0 {
				return &usageError{errors.New("the times must be longer than 0")}
			}
			return waitReady(c.Context(), url, timeout, period, time.Duration(requestTimeoutMillis)*time.Millisecond)
		},
	}
	fs := c.Flags()
	fs.StringVar(&url, "url", "http://localhost:15021/healthz/ready", "what must answer 200")
	fs.DurationVar(&timeout, "timeout", 60*time.Second, "how long to wait")
	fs.DurationVar(&period, "period", 500*time.Millisecond, "how often to ask")
	fs.IntVar(&timeoutSeconds, "timeoutSeconds", 60, "--timeout, as pilot-agent wait has it")
	fs.IntVar(&periodMillis, "periodMillis", 500, "--period, as pilot-agent wait has it")
	fs.IntVar(&requestTimeoutMillis, "requestTimeoutMillis", 500, "how long one answer may take")
	return c
}

// waitReady asks until url answers 200. What it answered last is in the error.
func waitReady(ctx context.Context, url string, timeout, period, request time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := &http.Client{Timeout: request, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(period)
	defer tick.Stop()
	var reason error
	for {
		err := isReady(ctx, client, url)
		if err == nil {
			return nil
		}
		if reason == nil || ctx.Err() == nil { // the end of the time is no reason
			reason = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w", timeout, reason)
		case <-tick.C:
		}
	}
}

func isReady(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return err
	}
	return fmt.Errorf("%s answers %s: %s", url, resp.Status, strings.TrimSpace(string(text)))
}
