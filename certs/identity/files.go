package identity

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// FilesOptions are where somebody else keeps a workload's identity: Kubernetes'
// mounted secrets, cert-manager, another agent.
type FilesOptions struct {
	Chain, Key, Roots string
	// TrustDomain is whose certificate it must be; zero is any. The roots are
	// for the trust domain of the certificate.
	TrustDomain spiffeid.TrustDomain
	Log         *slog.Logger
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
}

// Files is the Source of an identity in files, read again whenever they change.
type Files struct{ opts FilesOptions }

// NewFiles makes a Source; the files need not be there yet.
func NewFiles(opts FilesOptions) *Files {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Files{opts}
}

// Run follows the files until ctx ends. What does not fit, as in the midst of a
// change, or is out of its time is refused: what is served stays, and the files
// are looked at again at their next change and every minute.
func (f *Files) Run(ctx context.Context, k *Keeper) error {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() { defer close(told); k.TellExpiry(ctx) }()
	defer func() { cancel(); <-told }()
	w := fileWatch{paths: []string{f.opts.Chain, f.opts.Key, f.opts.Roots}}
	w.take = func(content [][]byte) error {
		k.Attempt()
		return f.take(ctx, k, content)
	}
	w.refused = func(err error) {
		k.Fail(err, time.Time{})
		if ctx.Err() == nil {
			f.opts.Log.Error("identity in files is refused, what was before goes on", "reason", err)
		}
	}
	w.run(ctx)
	return nil
}

func (f *Files) take(ctx context.Context, k *Keeper, content [][]byte) error {
	pair, err := certs.ParseKeyPair(content[0], content[1])
	if err != nil {
		return fmt.Errorf("%s with %s: %w", f.opts.Chain, f.opts.Key, err)
	}
	pair.CertPath = f.opts.Chain
	roots, err := certs.ParseRoots(content[2])
	if err != nil {
		return fmt.Errorf("%s: %w", f.opts.Roots, err)
	}
	if err := f.check(pair); err != nil {
		return fmt.Errorf("%s: %w", f.opts.Chain, err)
	}
	if err := VerifyChain(pair, append(k.Trusted(pair.ID.TrustDomain()), roots...)); err != nil {
		return fmt.Errorf("%s with %s: %w", f.opts.Chain, f.opts.Roots, err)
	}
	from := "file " + f.opts.Chain
	if err := k.Trust(from, Bundle{TrustDomain: pair.ID.TrustDomain(), Roots: roots}); err != nil {
		return err
	}
	if err := k.Serve(ctx, from, time.Time{}, pair); err != nil {
		return err
	}
	f.opts.Log.Info("identity in files is served", "spiffe_id", pair.ID.String(), "not_after", pair.TLS.Leaf.NotAfter)
	return nil
}

// check is what must hold before the roots beside a certificate are believed.
func (f *Files) check(p *certs.KeyPair) error {
	if p.ID.IsZero() {
		return fmt.Errorf("certificate %q has no SPIFFE ID", p.TLS.Leaf.Subject)
	}
	if td := f.opts.TrustDomain; !td.IsZero() && p.ID.TrustDomain() != td {
		return fmt.Errorf("%s is not of trust domain %q", p.ID, td)
	}
	return ValidAt(p, f.opts.Now().Round(0))
}
