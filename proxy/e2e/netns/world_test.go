//go:build netns

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"outrider/iptables/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The users: the sidecars', which the redirection leaves alone, and the
// applications'.
var (
	root      = netnstest.User{}
	proxyUser = netnstest.User{UID: 1337, GID: 1337}
	appUser   = netnstest.User{UID: 1000, GID: 1000}
)

// setup is how connections are taken: one row of the tests' table.
type setup struct{ backend, mode string }

// family is one family's addresses: of hosts by their number, of the host
// itself, and what the sidecar calls the application from with REDIRECT.
type family struct{ name, pattern, far, loopback, source string }

func families() []family {
	return []family{
		{"IPv4", "10.%d.0.1", "10.9.0.1", "127.0.0.1", "127.0.0.6"},
		{"IPv6", "fd0%d::1", "fd09::1", "::1", "::6"},
	}
}

// host is a host with a directory, in which its programs run.
type host struct {
	*netnstest.Host
	dir    string
	number int
}

// address is the host's own.
func (f family) address(h *host) string { return fmt.Sprintf(f.pattern, h.number) }

// at is a port of a host.
func (f family) at(h *host, port int) string { return at(f.address(h), port) }

func at(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// world is the hosts of one test. Each has a cable to a router, where every
// frame can be seen.
type world struct {
	t     *testing.T
	setup setup

	router                    *netnstest.Host
	client, server, plain, ca *host
	outrider                  string // the binary
}

// everywhere runs a test in a world for each backend and way to redirect.
func everywhere(t *testing.T, test func(t *testing.T, w *world)) {
	program := binary(t, "OUTRIDER")
	for _, backend := range []string{"nftables", "iptables"} {
		for _, mode := range []string{"REDIRECT", "TPROXY"} {
			t.Run(backend+"/"+mode, func(t *testing.T) {
				t.Parallel()
				test(t, newWorld(t, setup{backend, mode}, program))
			})
		}
	}
}

// eachFamily runs a part of a test with either family's addresses.
func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// newWorld makes the hosts, and starts the authority; program is outrider's.
func newWorld(t *testing.T, s setup, program string) *world {
	t.Helper()
	needPrograms(t)
	w := &world{t: t, setup: s, outrider: program, router: netnstest.New(t, "router")}
	w.router.Forward(t)
	w.client, w.server, w.plain, w.ca = w.host("client", 1), w.host("server", 2), w.host("plain", 3, 9), w.host("ca", 4)
	w.startAuthority()
	return w
}

// needPrograms wants what the backends and the checks are made with.
func needPrograms(t *testing.T) {
	t.Helper()
	for program, pkg := range map[string]string{"iptables-restore": "iptables", "nft": "nftables", "ip": "iproute2"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs the Debian package %s: %v", pkg, err)
		}
	}
}

// introduce tells the host at one end of a cable the hardware address of the
// other end, for IPv6: what a new interface is asked for it is not answered in
// its first second.
func (w *world) introduce(to, other netnstest.Port) {
	w.t.Helper()
	var hardware net.HardwareAddr
	learn := func() error {
		link, err := net.InterfaceByName(other.Name)
		if err == nil {
			hardware = link.HardwareAddr
		}
		return err
	}
	tell := func() error {
		link, err := net.InterfaceByName(to.Name)
		for _, a := range other.Addrs {
			if err == nil && a.Addr().Is6() {
				err = netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Index, State: netlink.NUD_PERMANENT, IP: a.Addr().AsSlice(), HardwareAddr: hardware})
			}
		}
		return err
	}
	if err := errors.Join(other.Host.Do(learn), to.Host.Do(tell)); err != nil {
		w.t.Fatalf("the neighbour of %s: %v", to.Host.Name, err)
	}
}

// host makes a host with an address in each network of a number and family, and
// a directory that its sidecar owns.
func (w *world) host(name string, networks ...int) *host {
	w.t.Helper()
	h := &host{Host: netnstest.New(w.t, name), number: networks[0], dir: openDir(w.t)}
	if err := os.Chown(h.dir, int(proxyUser.UID), int(proxyUser.GID)); err != nil {
		w.t.Fatal(err)
	}
	near, far := netnstest.Port{Host: h.Host, Name: "eth0"}, netnstest.Port{Host: w.router, Name: name}
	for _, n := range networks {
		near.Addrs = append(near.Addrs, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd0%d::1/64", n)))
		far.Addrs = append(far.Addrs, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.254/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd0%d::fe/64", n)))
	}
	netnstest.Cable(w.t, near, far)
	w.introduce(near, far)
	w.introduce(far, near)
	for _, gateway := range far.Addrs[:2] {
		h.Gateway(w.t, gateway.Addr())
	}
	return h
}

func (w *world) state() string { return filepath.Join(w.ca.dir, "state") }

func (w *world) startAuthority() {
	w.t.Helper()
	p := w.ca.start(w.t, proxyUser, w.outrider, "ca", "serve", "--state", "state", "--listen", ":15012", "--san", "10.4.0.1", "-l", "warning")
	p.until("a connection", func() bool {
		c, err := w.plain.Connect(netnstest.Dial{}, "10.4.0.1:15012")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// deliver gives a host the authority's root and a token for its service
// account, which has the host's name.
func (w *world) deliver(h *host) {
	w.t.Helper()
	write(w.t, filepath.Join(h.dir, "root.pem"), output(w.t, w.outrider, "ca", "root", "--state", w.state()))
	w.token(h)
}

func (w *world) token(h *host) {
	w.t.Helper()
	path := filepath.Join(h.dir, "token")
	output(w.t, w.outrider, "ca", "token", "--state", w.state(), "--namespace", "dev", "--service-account", h.Name, "--out", path)
	if err := os.Chown(path, int(proxyUser.UID), int(proxyUser.GID)); err != nil {
		w.t.Fatal(err)
	}
}

// rules runs `outrider iptables` in a host, which redirects everything but the
// ports that are always left alone.
func (w *world) rules(h *host, flags ...string) string {
	w.t.Helper()
	return h.Run(w.t, w.outrider, append([]string{
		"iptables", "-b", "*", "-i", "*", "-u", "1337", "-g", "1337", "-d", "22,15090,15021,15020",
		"-m", w.setup.mode, "--backend", w.setup.backend,
	}, flags...)...)
}

// id is the SPIFFE ID of a host's workload.
func id(h *host) string { return "spiffe://cluster.local/ns/dev/sa/" + h.Name }
