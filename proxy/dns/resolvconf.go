package dns

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

// rereadEvery is how often resolv.conf is looked at while questions come.
const rereadEvery = time.Second

// resolvConf is what of resolv.conf is used.
type resolvConf struct {
	servers []netip.AddrPort
	search  []string
}

// resolvConfFile is resolv.conf, read again when it has changed. There is no
// watcher: each question looks, at most once in rereadEvery.
type resolvConfFile struct {
	path string
	port uint16 // of the servers: 53 but in tests
	log  *slog.Logger
	// changed is told of each new reading.
	changed func(*resolvConf)

	current atomic.Pointer[resolvConf]
	due     atomic.Int64 // when to look again, in Unix nanoseconds
	mu      sync.Mutex   // guards seen and failed
	seen    os.FileInfo
	failed  bool // the last reading, which was told
}

// open reads the file for the first time.
func (f *resolvConfFile) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	c, err := f.read()
	if err != nil {
		return err
	}
	f.seen = info
	f.current.Store(c)
	f.due.Store(time.Now().Add(rereadEvery).UnixNano())
	return nil
}

// now is the file as it is. One that cannot be read leaves what was before.
func (f *resolvConfFile) now() *resolvConf {
	now := time.Now()
	due := f.due.Load()
	if now.UnixNano() >= due && f.due.CompareAndSwap(due, now.Add(rereadEvery).UnixNano()) {
		f.reread()
	}
	return f.current.Load()
}

func (f *resolvConfFile) reread() {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && !f.failed && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return
	}
	var c *resolvConf
	if err == nil {
		c, err = f.read()
	}
	if err != nil {
		if !f.failed {
			f.log.Warn("resolv.conf is not readable, what it said goes on", "file", f.path, "reason", err)
		}
		f.failed = true
		return
	}
	f.seen, f.failed = info, false
	if before := f.current.Load(); slices.Equal(before.servers, c.servers) && slices.Equal(before.search, c.search) {
		return
	}
	f.log.Info("resolv.conf has changed", "file", f.path, "servers", c.servers, "search", c.search)
	f.current.Store(c)
	f.changed(c)
}

// read parses the file. Servers that are no address are left out, as by the C
// library.
func (f *resolvConfFile) read() (*resolvConf, error) {
	parsed, err := wire.ClientConfigFromFile(f.path)
	if err != nil {
		return nil, err
	}
	c := &resolvConf{search: parsed.Search}
	for _, text := range parsed.Servers {
		a, err := netip.ParseAddr(text)
		if err != nil {
			f.log.Warn("a name server of resolv.conf is no address", "file", f.path, "server", text)
			continue
		}
		c.servers = append(c.servers, netip.AddrPortFrom(a.Unmap(), f.port))
	}
	return c, nil
}
