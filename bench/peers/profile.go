package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// profiled has outrider's processes take a CPU profile of each measure's window
// into the directory that -profile names, a file for each row, round and
// process. It costs what a profile costs, so such a run's figures are not for
// comparing.
func (h *harness) profiled(ctx context.Context, w row, round int, b *bed) (wait func() error) {
	if h.profiles == "" {
		return func() error { return nil }
	}
	var wg sync.WaitGroup
	errs := make([]error, len(b.admins))
	for i, addr := range b.admins {
		path := filepath.Join(h.profiles, fmt.Sprintf("%s.%d.%d.prof", strings.ReplaceAll(w.id, "/", "-"), round, i))
		wg.Go(func() { errs[i] = saveProfile(ctx, addr, h.warmUp+h.time, path) })
	}
	return func() error {
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return fmt.Errorf("profile: %w", err)
			}
		}
		return nil
	}
}

// saveProfile asks an admin address for a CPU profile over d, whole seconds at
// least.
func saveProfile(ctx context.Context, addr string, d time.Duration, path string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, max(1, int(d.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
