package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"outrider/certs"
)

// FilesOptions are where somebody else keeps a workload's identity: Kubernetes'
// mounted secrets, cert-manager, another agent.
type FilesOptions struct {
	Chain, Key, Roots string
	Log               *slog.Logger
}

// Files is the Source of an identity in files, read again whenever they change.
type Files struct{ opts FilesOptions }

// NewFiles makes a Source; the files need not be there yet.
func NewFiles(opts FilesOptions) *Files {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Files{opts}
}

// Run follows the files until ctx ends. A pair that does not fit, as in the
// midst of a change, is refused and what is served stays.
func (f *Files) Run(ctx context.Context, k *Keeper) error {
	from, last := "file "+f.opts.Chain, ""
	changed := func() {
		content, err := readAll(f.opts.Chain, f.opts.Key, f.opts.Roots)
		seen := fmt.Sprint(digest(content...), err)
		if seen == last {
			return
		}
		last = seen
		k.Attempt()
		if err == nil {
			err = f.take(ctx, k, from, content)
		}
		if err != nil && ctx.Err() == nil {
			f.opts.Log.Error("identity in files is refused, what was before goes on", "reason", err)
			k.Fail(err, time.Time{})
		}
	}
	return follow(ctx, []string{f.opts.Chain, f.opts.Key, f.opts.Roots}, changed, func(err error) { k.Fail(err, time.Time{}) })
}

func (f *Files) take(ctx context.Context, k *Keeper, from string, content [][]byte) error {
	pair, err := certs.ParseKeyPair(content[0], content[1])
	if err != nil {
		return err
	}
	pair.CertPath = f.opts.Chain
	roots, err := certs.ParseRoots(content[2])
	if err != nil {
		return fmt.Errorf("%s: %w", f.opts.Roots, err)
	}
	if err := k.Trust(from, Bundle{TrustDomain: pair.ID.TrustDomain(), Roots: roots}); err != nil {
		return err
	}
	if err := k.Serve(ctx, from, time.Time{}, pair); err != nil {
		return err
	}
	f.opts.Log.Info("identity in files is served", "spiffe_id", pair.ID.String(), "not_after", pair.TLS.Leaf.NotAfter)
	return nil
}

// follow calls changed for every change beside one of paths, until ctx ends. A
// directory that cannot be watched is said once each time, and tried again.
func follow(ctx context.Context, paths []string, changed func(), failed func(error)) error {
	var dirs []string
	for _, p := range paths {
		for _, d := range certs.Dirs(p, "") {
			if !slices.Contains(dirs, d) {
				dirs = append(dirs, d)
			}
		}
	}
	for {
		err := certs.Watch(ctx, dirs, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

func readAll(paths ...string) ([][]byte, error) {
	out := make([][]byte, 0, len(paths))
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

func digest(content ...[]byte) string {
	sum := sha256.New()
	for _, c := range content {
		fmt.Fprintf(sum, "%d\n", len(c))
		sum.Write(c)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
