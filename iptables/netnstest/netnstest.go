// Package netnstest makes hosts for tests: network namespaces of the test's
// own, joined by cables, in which sockets are opened and programs are run as
// any user. Nothing is named on the machine (no ip netns), so that tests may run
// beside each other, and everything is gone when the test ends.
//
// It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN). Where that is not given, a test
// fails if CI is set; elsewhere it is skipped with a word about what is missing.
package netnstest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace. Its methods may be called from any goroutine.
type Host struct {
	// Name is for messages.
	Name string
	ns   netns.NsHandle
}

// New makes a host that has only its loopback interface, which is up. It lives
// until the test ends; sockets that are still open then keep the kernel's side
// of it.
func New(t testing.TB, name string) *Host {
	t.Helper()
	h := &Host{Name: name}
	err := thread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		h.ns = ns
		return up("lo")
	})
	if err != nil {
		Missing(t, fmt.Sprintf("a network namespace (root, with CAP_SYS_ADMIN and CAP_NET_ADMIN): %v", err))
	}
	t.Cleanup(func() { h.ns.Close() })
	return h
}

// Missing ends a test that cannot run on this machine, for lack of what. It
// fails where CI is set, and is skipped elsewhere.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("this test needs %s", what)
	}
	t.Skipf("this test needs %s", what)
}

// thread runs f on a thread of its own, which ends with f: whatever f does to
// the thread (its namespace, its user) touches nobody else.
func thread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := fmt.Errorf("the test ended in it")
		defer func() { done <- err }() // runs on t.FailNow, too
		err = f()
	}()
	return <-done
}

// Do runs f in the host and waits for it. Only f's own goroutine is there: what
// f starts by go is not, and neither is a name's resolution. Sockets stay in the
// host in which they were opened. f may call t.Error, not t.Fatal.
func (h *Host) Do(f func() error) error {
	return thread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
		return f()
	})
}

// User is who a socket or a program belongs to.
type User struct{ UID, GID uint32 }

// DoAs is Do with sockets that belong to a user: those that f opens. Rules by
// owner see the user; nothing else of f's rights changes but those on files.
func (h *Host) DoAs(u User, f func() error) error {
	return h.Do(func() error {
		// The owner of a socket is the thread's file system user at its making
		// (credentials(7)). These calls tell no error, and Go's own wrappers
		// would change every thread.
		unix.RawSyscall(unix.SYS_SETFSGID, uintptr(u.GID), 0, 0)
		unix.RawSyscall(unix.SYS_SETFSUID, uintptr(u.UID), 0, 0)
		return f()
	})
}

// Start starts a program in the host as it is, with its user in SysProcAttr if
// that is to be another. The caller waits for it.
func (h *Host) Start(cmd *exec.Cmd) error { return h.Do(cmd.Start) }

// Run runs a program in the host to its end, and returns what it printed.
func (h *Host) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("host %s: %s %q: %v\n%s", h.Name, name, args, err, out)
	}
	return string(out)
}

// Path is a name of the namespace for this process and its children that
// inherit no descriptor: a file under /proc.
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns)) }

// Port is one end of a cable: the interface's name and its addresses.
type Port struct {
	Host  *Host
	Name  string
	Addrs []netip.Prefix
}

// Cable joins two hosts (a veth pair). Both ends are up and their addresses
// usable when it returns.
func Cable(t testing.TB, a, b Port) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerNamespace = b.Name, netlink.NsFd(b.Host.ns)
	if err := a.Host.Do(func() error { return netlink.LinkAdd(pair) }); err != nil {
		t.Fatalf("cable %s %s to %s %s: %v", a.Host.Name, a.Name, b.Host.Name, b.Name, err)
	}
	for _, p := range []Port{a, b} {
		if err := p.Host.Do(p.configure); err != nil {
			t.Fatalf("host %s, interface %s: %v", p.Host.Name, p.Name, err)
		}
	}
}

func (p Port) configure() error {
	link, err := netlink.LinkByName(p.Name)
	if err != nil {
		return err
	}
	for _, a := range p.Addrs {
		ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		// Without duplicate address detection, which would take seconds.
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// Gateway makes everything that is not on a cable go to a neighbour.
func (h *Host) Gateway(t testing.TB, via netip.Addr) {
	t.Helper()
	if err := h.Do(func() error { return netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice()}) }); err != nil {
		t.Fatalf("host %s: default route by %s: %v", h.Name, via, err)
	}
}

// Forward makes the host a router between its cables.
func (h *Host) Forward(t testing.TB) {
	t.Helper()
	err := h.Do(func() error {
		for _, knob := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+knob, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("host %s: forwarding: %v", h.Name, err)
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}
