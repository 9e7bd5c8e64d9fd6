package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// watchAgain is how long after a directory could not be watched it is tried
// again: it may be mounted later.
const watchAgain = 5 * time.Second

// BundleFiles is a Source of roots only: files with the bundles of other trust
// domains, for federation without SPIRE.
type BundleFiles struct {
	files map[string][]spiffeid.TrustDomain // by path
	log   *slog.Logger
}

// NewBundleFiles makes the source of those files, by the trust domain whose
// bundle each has: PEM, or SPIFFE's bundle in JSON. They need not be there yet.
// A nil log says nothing.
func NewBundleFiles(files map[spiffeid.TrustDomain]string, log *slog.Logger) *BundleFiles {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &BundleFiles{files: map[string][]spiffeid.TrustDomain{}, log: log}
	for _, td := range slices.SortedFunc(maps.Keys(files), spiffeid.TrustDomain.Compare) {
		b.files[files[td]] = append(b.files[files[td]], td)
	}
	return b
}

// Run has k trust what the files say until ctx ends, and returns nil then. A
// file that is gone or cannot be read is told of, and what it said last stays
// trusted. From now on k verifies each peer with the bundle of its own trust
// domain: otherwise, while only a foreign bundle is known, it could vouch for
// our own.
func (b *BundleFiles) Run(ctx context.Context, k *Keeper) error {
	k.DemandTrustDomains()
	w := &bundleWatch{BundleFiles: b, keeper: k, seen: map[string]seen{}}
	for {
		err := certs.Watch(ctx, b.dirs(), w.read)
		if ctx.Err() != nil {
			return nil
		}
		w.read() // what is there without the missing directory
		b.log.Warn("bundle files are not watched", "reason", err, "next_try_in", watchAgain)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

func (b *BundleFiles) dirs() []string {
	out := []string{}
	for path := range b.files {
		out = append(out, certs.Dirs(path, "")...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// bundleWatch is one Run.
type bundleWatch struct {
	*BundleFiles
	keeper *Keeper
	seen   map[string]seen // by path
}

// seen is what a file had when it was read last, or why it could not be read.
type seen struct {
	text   string
	reason string
}

// read takes every file that is not what it was.
func (w *bundleWatch) read() {
	for _, path := range slices.Sorted(maps.Keys(w.files)) {
		text, err := os.ReadFile(path)
		before, known := w.seen[path]
		if err == nil {
			if known && before.reason == "" && before.text == string(text) {
				continue
			}
			err = w.take(path, text)
		}
		if err == nil {
			w.seen[path] = seen{text: string(text)}
			continue
		}
		err = fmt.Errorf("bundle file %s: %w", path, err)
		if before.reason != err.Error() {
			w.refuse(err)
		}
		w.seen[path] = seen{text: string(text), reason: err.Error()}
	}
}

func (w *bundleWatch) take(path string, text []byte) error {
	var said []Bundle
	for _, td := range w.files[path] {
		roots, err := ParseBundle(td, text)
		if err != nil {
			return err
		}
		said = append(said, Bundle{TrustDomain: td, Roots: roots})
	}
	if err := w.keeper.Trust("file "+path, said...); err != nil {
		return err
	}
	w.log.Info("bundle file is taken", "path", path, "trust_domains", len(said), "roots", len(said[0].Roots))
	return nil
}

// refuse shows why a file is not taken: what it said before stays.
func (w *bundleWatch) refuse(err error) {
	w.log.Warn("bundle file is refused, and what it said before stays", "reason", err)
	if h, none := w.keeper.Handle(RootsName); none == nil {
		h.Reject(err)
	}
}

// ParseBundle reads the roots of a trust domain: PEM, or, if it begins as a
// JSON object, the document of SPIFFE's "Trust Domain and Bundle". None at all
// is an error.
func ParseBundle(td spiffeid.TrustDomain, text []byte) ([]*x509.Certificate, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return certs.ParseRoots(text)
	}
	b, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, err
	}
	if len(b.X509Authorities()) == 0 {
		return nil, errors.New("there is no X.509 authority in it")
	}
	return b.X509Authorities(), nil
}
