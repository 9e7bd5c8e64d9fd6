package xds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// CacheOptions are where and when the last good configuration is kept.
type CacheOptions struct {
	// Dir is the directory; it is made if it is not there.
	Dir string
	// Node is the node's id: what is kept for another node is not used.
	Node string
	// After is for how long the first stream may be silent before the cache is
	// used; 0 is 3 s. A stream that cannot be opened does not wait.
	After time.Duration
}

// Cache keeps on disk what was accepted: one file for each type and server. It
// is used only until a server answers. Private types are not in it.
type Cache struct{ opts CacheOptions }

// Times of the cache.
const (
	defaultQuiet = 3 * time.Second
	// saveInterval bounds how often a file is written: its cost is that of the
	// whole type.
	saveInterval = 5 * time.Second
	// touchInterval is how often the files are marked as still good, while a
	// stream is open.
	touchInterval = time.Minute
)

// OpenCache makes the directory, and finds out whether it can be written to.
func OpenCache(opts CacheOptions) (*Cache, error) {
	if opts.After == 0 {
		opts.After = defaultQuiet
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	probe, err := os.CreateTemp(opts.Dir, ".probe-*")
	if err != nil {
		return nil, err
	}
	return &Cache{opts}, errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// cached is what a cache had when it was needed.
type cached struct {
	types map[string]map[string]received // by type URL and name; what is not delivered yet
	at    time.Time                      // when it was last known to be good: the oldest file's
}

// keep writes what changes, and delivers from the cache what is subscribed to
// while there is no server, until ctx ends.
func (c *Client) keep(ctx context.Context) {
	save, touch := time.NewTicker(saveInterval), time.NewTicker(touchInterval)
	defer save.Stop()
	defer touch.Stop()
	for {
		select {
		case <-ctx.Done():
			c.save()
			return
		case <-save.C:
			c.save()
		case <-touch.C:
			c.touch()
		case <-c.stock:
			c.deliver()
		}
	}
}

// keeps says that the resources of a type are kept.
func (c *Client) keeps(k *kind) bool { return c.opts.Cache != nil && !k.Private }

// cacheDue says that the cache is to be used if the next stream brings nothing.
func (c *Client) cacheDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opts.Cache != nil && !c.everHeard && c.cached == nil
}

// useCache reads the cache and delivers from it. It is called between streams,
// so that the next one can say what we have.
func (c *Client) useCache() {
	c.mu.Lock()
	kinds := slices.Clone(c.order)
	c.mu.Unlock()
	all := &cached{types: map[string]map[string]received{}}
	for _, k := range kinds {
		if k.Private {
			continue
		}
		list, at, err := c.opts.Cache.load(c.opts.Server, k.URL)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				c.opts.Log.Error("what is kept of the last configuration is not used", "type", k.URL, "reason", err)
			}
			continue
		}
		all.types[k.URL] = list
		if all.at.IsZero() || at.Before(all.at) {
			all.at = at
		}
	}
	c.mu.Lock()
	c.cached = all
	c.mu.Unlock()
	if len(all.types) == 0 {
		return
	}
	c.opts.Log.Warn("the control plane does not answer: going on with the last configuration", "cluster", c.opts.Server,
		"age", time.Since(all.at).Round(time.Second), "from", c.opts.Cache.opts.Dir)
	c.deliver()
}

// deliver applies what the cache has of what is subscribed to, until that
// subscribes to nothing more of it.
func (c *Client) deliver() {
	for again := true; again; {
		again = false
		c.mu.Lock()
		kinds := slices.Clone(c.order)
		c.mu.Unlock()
		for _, k := range kinds {
			again = c.deliverKind(k) || again
		}
	}
}

func (c *Client) deliverKind(k *kind) bool {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.mu.Lock()
	a := c.fromCache(k)
	if len(a.resources) == 0 {
		if c.onCache() && k.Whole && len(k.refs) > 0 {
			k.answered() // there were none
		}
		c.mu.Unlock()
		return false
	}
	k.paused++ // the first request of the next stream says what we have
	c.mu.Unlock()

	update := Update{Version: a.version, Cached: true}
	for _, r := range a.resources {
		update.Updated = append(update.Updated, r.Resource)
	}
	errs := c.apply(k, update)
	if len(errs) > 0 {
		c.opts.Log.Error("some of the last configuration is refused", "type", k.URL, "reason", refusalText(errs))
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if errs == nil {
		errs = map[string]error{}
	}
	dirty := k.dirty
	k.record(update, errs, a, true)
	k.dirty = dirty // it is on disk
	k.paused--
	k.answered()
	c.signal()
	return true
}

// fromCache takes out of the cache what is wanted of a type; mu is held. Once a
// server has answered, or may, it is nothing.
func (c *Client) fromCache(k *kind) answer {
	a := answer{url: k.URL, delta: true}
	if c.cached == nil || c.everHeard || k.begun && c.open {
		return a
	}
	list := c.cached.types[k.URL]
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if r := list[name]; k.wants(name) {
			a.resources = append(a.resources, r)
			a.version = r.Version
			delete(list, name)
		}
	}
	return a
}

// CacheAge is how old the configuration is that came from the cache: the time
// since it was last known to be the server's. used is false when there is
// none, or a server has answered since.
func (c *Client) CacheAge() (age time.Duration, used bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.onCache() {
		return 0, false
	}
	return time.Since(c.cached.at), true
}

// onCache says that the cache had something, and no server has answered; mu is
// held.
func (c *Client) onCache() bool {
	return c.cached != nil && len(c.cached.types) > 0 && !c.everHeard
}

// save writes the types that have changed since they were written. Only what a
// server has said is written.
func (c *Client) save() {
	c.mu.Lock()
	var changed []*discoveryv3.DeltaDiscoveryResponse
	for _, k := range c.order {
		if c.everHeard && k.dirty && c.keeps(k) {
			changed = append(changed, k.content(c.opts.Cache.opts.Node))
			k.dirty = false
		}
	}
	c.mu.Unlock()
	for _, m := range changed {
		if err := c.opts.Cache.write(c.opts.Server, m); err != nil {
			c.opts.Log.Error("the last configuration cannot be kept", "type", m.GetTypeUrl(), "reason", err)
		}
	}
}

// touch marks the files as good now, while a stream is open.
func (c *Client) touch() {
	c.mu.Lock()
	var urls []string
	if c.open && c.heard {
		for _, k := range c.order {
			if c.keeps(k) && len(k.known) > 0 {
				urls = append(urls, k.URL)
			}
		}
	}
	c.mu.Unlock()
	now := time.Now()
	for _, u := range urls {
		path := c.opts.Cache.path(c.opts.Server, u)
		if err := os.Chtimes(path, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.opts.Log.Error("the last configuration cannot be marked as good", "file", path, "reason", err)
		}
	}
}

// path is "<server>~<message>.pb" in the directory.
func (h *Cache) path(server, typeURL string) string {
	message := typeURL[strings.LastIndexByte(typeURL, '/')+1:]
	return filepath.Join(h.opts.Dir, url.PathEscape(server)+"~"+url.PathEscape(message)+".pb")
}

// cacheHeader begins each file. A digest of the rest follows it: half a file is
// none.
const cacheHeader = "outrider xds cache 1 "

// content is what a type's file holds: a DeltaDiscoveryResponse, the node's id
// in its nonce.
func (k *kind) content(node string) *discoveryv3.DeltaDiscoveryResponse {
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: k.URL, SystemVersionInfo: k.version, Nonce: node}
	for _, name := range slices.Sorted(maps.Keys(k.known)) {
		if one := k.known[name]; one.body != nil && k.expiring[name].IsZero() {
			m.Resources = append(m.Resources, &discoveryv3.Resource{Name: name, Version: one.version, Resource: one.body})
		}
	}
	return m
}

// write replaces the file of m's type in one step.
func (h *Cache) write(server string, m *discoveryv3.DeltaDiscoveryResponse) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	f, err := os.CreateTemp(h.opts.Dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(cacheHeader + hex.EncodeToString(sum[:]) + "\n")
	if err == nil {
		_, err = f.Write(body)
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), h.path(server, m.GetTypeUrl()))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// load reads a type's file. The error is fs.ErrNotExist if there is none.
func (h *Cache) load(server, typeURL string) (map[string]received, time.Time, error) {
	path := h.path(server, typeURL)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	head, body, _ := bytes.Cut(text, []byte("\n"))
	sum := sha256.Sum256(body)
	if string(head) != cacheHeader+hex.EncodeToString(sum[:]) {
		return nil, time.Time{}, fmt.Errorf("%s: is damaged, or of another version", path)
	}
	m := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	if m.GetNonce() != h.opts.Node || m.GetTypeUrl() != typeURL {
		return nil, time.Time{}, fmt.Errorf("%s: is of %s for node %q, not for this node, %q", path, m.GetTypeUrl(), m.GetNonce(), h.opts.Node)
	}
	out := make(map[string]received, len(m.GetResources()))
	for i, w := range m.GetResources() {
		r := fromWrapper(w)
		r.check(typeURL, fmt.Sprintf("resources[%d]", i), func(*anypb.Any) (string, error) { return "", nil })
		if r.err != nil {
			return nil, time.Time{}, fmt.Errorf("%s: %s: %w", path, r.Name, r.err)
		}
		out[r.Name] = r
	}
	return out, info.ModTime(), nil
}
