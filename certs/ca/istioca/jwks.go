package istioca

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// How a key set is fetched.
const (
	maxKeySetBytes = 1 << 20
	maxKeys        = 100
	fetchTimeout   = 5 * time.Second
	// refreshEvery bounds how long a key that was taken out is still used.
	refreshEvery = 5 * time.Minute
	// staleAfter is how long an outage of the server may last before its old
	// keys are not trusted any more.
	staleAfter = 24 * time.Hour
	// minFetchGap keeps tokens with made-up key IDs from becoming requests.
	minFetchGap = 10 * time.Second
	maxFetchGap = 5 * time.Minute
)

// Keys is a set of public keys that changes. find returns those that a token
// with that key ID may be signed with; "" is a token without one, and any key
// may be it. It may block on the network until ctx ends.
type Keys interface {
	find(ctx context.Context, kid string) ([]jose.JSONWebKey, error)
}

// parseKeySet reads a JSON Web Key Set (RFC 7517). Symmetric and private keys
// are refused; keys for encryption are left out.
func parseKeySet(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, and may have %d", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for n, raw := range set.Keys {
		var use struct {
			Use string `json:"use"`
		}
		if err := json.Unmarshal(raw, &use); err == nil && use.Use == "enc" {
			continue
		}
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", n, err)
		}
		if !key.IsPublic() {
			return nil, fmt.Errorf("keys[%d]: a key of type %T is not a public key", n, key.Key)
		}
		if err := checkKey(key.Key); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", n, err)
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, errors.New("it has no key for signatures")
	}
	return out, nil
}

// withID are the keys that may have made a signature with that key ID.
func withID(keys []jose.JSONWebKey, kid string) []jose.JSONWebKey {
	if kid == "" {
		return keys
	}
	var out []jose.JSONWebKey
	for _, k := range keys {
		if k.KeyID == kid {
			out = append(out, k)
		}
	}
	return out
}

// KeyFile is a key set in a file. It is read at each use, so that a change
// counts from the next request on.
type KeyFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	keys []jose.JSONWebKey // guarded by mu; the last good ones
	seen [sha256.Size]byte // guarded by mu; of the text that was looked at last
}

// NewKeyFile reads the file, which must be good now. Later, one that cannot be
// read is a warning, and what it was before still counts.
func NewKeyFile(path string, log *slog.Logger) (*KeyFile, error) {
	f := &KeyFile{path: path, log: log}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("key set %s: %w", path, err)
	}
	return f, nil
}

func (f *KeyFile) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeySetBytes+1))
	switch sum := sha256.Sum256(text); {
	case err != nil:
		return err
	case len(text) > maxKeySetBytes:
		return fmt.Errorf("it has more than %d bytes", maxKeySetBytes)
	case sum == f.seen:
		return nil
	default:
		f.seen = sum
	}
	keys, err := parseKeySet(text)
	if err == nil {
		f.keys = keys
	}
	return err
}

func (f *KeyFile) find(_ context.Context, kid string) ([]jose.JSONWebKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		f.log.Warn("key set is not read again, the one before counts", "file", f.path, "error", err)
	}
	return withID(f.keys, kid), nil
}

// KeyURL is a key set behind a URL. It is fetched when it is five minutes old
// and when a token names a key that is not in it, but not more often than
// every ten seconds, and less often while the server fails.
type KeyURL struct {
	url    string
	client *http.Client
	bearer string // a file; "" is none
	log    *slog.Logger

	fetching chan struct{} // has room for the one that fetches, without mu

	mu      sync.Mutex
	keys    []jose.JSONWebKey // guarded by mu; the last good ones
	fetched time.Time         // guarded by mu; when those came
	next    time.Time         // guarded by mu; no fetch before
	gap     time.Duration     // guarded by mu; after the last failure
	lastErr error             // guarded by mu
}

// KeyURLConfig is where a key set is and how it is asked for.
type KeyURLConfig struct {
	// URL is https, or http to the loopback interface.
	URL string
	// Client makes the requests; it knows which roots the server may have.
	Client *http.Client
	// TokenFile holds a bearer token for the request, read for each; "" is none.
	TokenFile string
}

// NewKeyURL makes a key set that is fetched at its first use.
func NewKeyURL(c KeyURLConfig, log *slog.Logger) (*KeyURL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	host := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && !(u.Scheme == "http" && host != nil && host.IsLoopback()) {
		return nil, fmt.Errorf("key set %q: it must be https, for who changes it on its way can be anybody", c.URL)
	}
	return &KeyURL{url: c.URL, client: c.Client, bearer: c.TokenFile, log: log, fetching: make(chan struct{}, 1)}, nil
}

func (u *KeyURL) find(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	found, due := u.look(kid)
	switch {
	case due && len(found) == 0:
		select {
		case u.fetching <- struct{}{}: // after the fetch that is under way
			u.refresh(ctx, kid)
		case <-ctx.Done():
		}
	case due:
		select {
		case u.fetching <- struct{}{}:
			u.refresh(ctx, kid)
		default:
		}
	}
	found, _ = u.look(kid)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.keys == nil || time.Since(u.fetched) > staleAfter {
		return nil, fmt.Errorf("key set %s: there is none from the last %s: %w", u.url, staleAfter, errors.Join(u.lastErr, ctx.Err()))
	}
	return found, nil
}

// look is what there is, and whether it is time for a fetch.
func (u *KeyURL) look(kid string) (found []jose.JSONWebKey, due bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	found = withID(u.keys, kid)
	now := time.Now()
	return found, (len(found) == 0 || now.Sub(u.fetched) >= refreshEvery) && !now.Before(u.next)
}

// refresh fetches the set if that is still due, and ends fetching.
func (u *KeyURL) refresh(ctx context.Context, kid string) {
	defer func() { <-u.fetching }()
	if _, due := u.look(kid); !due {
		return
	}
	// The caller's going away must not look like the server's failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	keys, err := u.fetch(ctx)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lastErr = err; err != nil {
		u.gap = min(max(2*u.gap, minFetchGap), maxFetchGap)
		u.next = time.Now().Add(u.gap)
		u.log.Warn("key set is not fetched, the one before counts", "url", u.url, "error", err, "again_at", u.next)
		return
	}
	u.keys, u.fetched, u.gap = keys, time.Now(), 0
	u.next = u.fetched.Add(minFetchGap)
}

func (u *KeyURL) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	if u.bearer != "" {
		token, err := os.ReadFile(u.bearer)
		if err != nil {
			return nil, fmt.Errorf("token for the key set: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", u.url, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySetBytes {
		return nil, fmt.Errorf("%s answered more than %d bytes", u.url, maxKeySetBytes)
	}
	return parseKeySet(text)
}
