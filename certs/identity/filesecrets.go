package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"outrider/certs"
)

// The prefixes of secrets that are files (Istio: security.SdsCaSuffix and
// friends): file-cert:CHAIN~KEY, file-root:BUNDLE, file-root:system.
const (
	certPrefix = "file-cert:"
	rootPrefix = "file-root:"

	systemRoots = rootPrefix + "system"
)

// FileSecretsOptions are those of secrets that are named by their files.
type FileSecretsOptions struct {
	// Allowed are the directories in which, or below which, the files must be;
	// none allows any that this process can read.
	Allowed []string
	Log     *slog.Logger
}

// FileSecrets serves secrets whose names say which files they are in. Files are
// read again when they change.
type FileSecrets struct {
	opts FileSecretsOptions

	mu      sync.Mutex
	handles map[string]*certs.Handle // guarded by mu; by name
	run     context.Context          //nolint:containedctx // guarded by mu; nil unless Run runs
	running sync.WaitGroup
}

// NewFileSecrets makes a FileSecrets that watches nothing yet.
func NewFileSecrets(opts FileSecretsOptions) *FileSecrets {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &FileSecrets{opts: opts, handles: map[string]*certs.Handle{}}
}

// IsFileName reports whether a secret's name is one of files.
func IsFileName(name string) bool {
	return strings.HasPrefix(name, certPrefix) || strings.HasPrefix(name, rootPrefix)
}

// Handle is the secret of that name, followed as soon as Run runs. An error
// says that the name is none, or names files that may not be served.
func (f *FileSecrets) Handle(name string) (*certs.Handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.handles[name]; h != nil {
		return h, nil
	}
	paths, err := f.paths(name)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", name, err)
	}
	if len(f.handles) >= maxNames {
		return nil, fmt.Errorf("secret %q: %d names are served already", name, maxNames)
	}
	h := certs.NewHandle(certs.Ref{Name: name})
	f.handles[name] = h
	if f.run != nil {
		f.start(f.run, h, paths)
	}
	return h, nil
}

// Handles are the secrets that were asked for.
func (f *FileSecrets) Handles() []*certs.Handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]*certs.Handle, 0, len(f.handles))
	for _, h := range f.handles {
		out = append(out, h)
	}
	return certs.SortByName(out)
}

// Run follows the files of all handles, those that come later too, until ctx
// ends.
func (f *FileSecrets) Run(ctx context.Context) error {
	f.mu.Lock()
	f.run = ctx
	for name, h := range f.handles {
		if paths, err := f.paths(name); err == nil { // as it was when the handle was made
			f.start(ctx, h, paths)
		}
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.run = nil
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// systemBundles are where hosts keep their roots (crypto/x509 looks in the
// same places).
func systemBundles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
}

// paths are the files that a name says.
func (f *FileSecrets) paths(name string) ([]string, error) {
	if name == systemRoots {
		for _, p := range systemBundles() {
			if _, err := os.Stat(p); err == nil {
				return []string{p}, nil
			}
		}
		return nil, fmt.Errorf("this machine has no roots in any of %q", systemBundles())
	}
	if path, ok := strings.CutPrefix(name, rootPrefix); ok {
		return []string{path}, f.allow(path)
	}
	rest, ok := strings.CutPrefix(name, certPrefix)
	chain, key, both := strings.Cut(rest, "~")
	if !ok || !both {
		return nil, fmt.Errorf("the names are %sCHAIN~KEY and %sBUNDLE", certPrefix, rootPrefix)
	}
	if err := f.allow(chain); err != nil {
		return nil, err
	}
	return []string{chain, key}, f.allow(key)
}

// allow refuses files outside of the allowed directories, also by way of links.
func (f *FileSecrets) allow(path string) error {
	if path == "" {
		return errors.New("a file's name is empty")
	}
	if len(f.opts.Allowed) == 0 {
		return nil
	}
	real, err := realPath(path)
	if err != nil {
		return err
	}
	inside := func(allowed string) bool {
		root, err := realPath(allowed)
		if err != nil {
			return false
		}
		rel, err := filepath.Rel(root, real)
		return err == nil && filepath.IsLocal(rel)
	}
	if !slices.ContainsFunc(f.opts.Allowed, inside) {
		return fmt.Errorf("%s is in none of the directories that are allowed, %q", path, f.opts.Allowed)
	}
	return nil
}

// realPath is where path leads to. Its last name need not be there yet.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// start follows one secret's files; mu is held.
func (f *FileSecrets) start(ctx context.Context, h *certs.Handle, paths []string) {
	name := h.Ref().Name
	w := fileWatch{paths: paths}
	if name != systemRoots {
		w.allowed = f.allow // where links lead may have changed
	}
	w.take = func(content [][]byte) error {
		h.Attempt()
		s, err := fileSecret(name, paths, content)
		if err == nil {
			h.Publish(s)
		}
		return err
	}
	w.refused = func(err error) {
		h.Reject(err)
		f.opts.Log.Error("secret in files is refused, what was before goes on", "secret", name, "reason", err)
	}
	f.running.Go(func() { w.run(ctx) })
}

func fileSecret(name string, paths []string, content [][]byte) (*certs.Secret, error) {
	s := &certs.Secret{Name: name, Version: digest(content...), Updated: time.Now(), From: "file " + paths[0]}
	if len(paths) == 1 {
		roots, err := certs.ParseRoots(content[0])
		if err != nil {
			return nil, err
		}
		s.Validation = &certs.Validation{Roots: roots, RootsPath: paths[0]}
		return s, nil
	}
	pair, err := certs.ParseKeyPair(content[0], content[1])
	if err != nil {
		return nil, err
	}
	pair.CertPath, s.KeyPair = paths[0], pair
	return s, nil
}
