package netnstest_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"outrider/iptables/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// read is all that a connection brings.
func read(t *testing.T, c net.Conn, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestHostsOnACableReachEachOtherByBothFamilies(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Cable(t,
		netnstest.Port{Host: a, Name: "eth0", Addrs: prefixes("10.1.0.1/24", "fd01::1/64")},
		netnstest.Port{Host: b, Name: "eth0", Addrs: prefixes("10.1.0.2/24", "fd01::2/64")})
	wire := b.Capture(t, "eth0")
	for _, address := range []string{"10.1.0.2:80", "[fd01::2]:80"} {
		netnstest.Banner(t, b.Listen(t, netnstest.User{}, address, false), func(c *net.TCPConn) string {
			return "from " + c.RemoteAddr().(*net.TCPAddr).IP.String()
		})
		c, err := a.Connect(netnstest.Dial{}, address)
		got := read(t, c, err)
		if want := map[byte]string{'1': "from 10.1.0.1", '[': "from fd01::1"}[address[0]]; got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
		if !wire.Wait(func(f []byte) bool { return bytes.Contains(f, []byte(got)) }) {
			t.Errorf("%s: the capture lacks %q", address, got)
		}
	}
}

func TestAHostIsApartFromTheMachine(t *testing.T) {
	h := netnstest.New(t, "alone")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := h.Connect(netnstest.Dial{}, l.Addr().String()); err == nil {
		c.Close()
		t.Error("the host reaches the machine's loopback")
	}
	var inside string
	if err := h.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	outside, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || outside == inside {
		t.Errorf("after Do this goroutine is in %s, the host is %s: %v", outside, inside, err)
	}
	if got := h.Run(t, "readlink", "/proc/self/ns/net"); strings.TrimSpace(got) != inside {
		t.Errorf("a program runs in %s, the host is %s", got, inside)
	}
	if got, err := os.Stat(h.Path()); err != nil || got.Size() < 0 {
		t.Errorf("path %s: %v", h.Path(), err)
	}
}

func TestSocketsBelongToTheUserTheyAreOpenedAs(t *testing.T) {
	h := netnstest.New(t, "users")
	user := netnstest.User{UID: 4711, GID: 4712}
	l := h.Listen(t, user, "127.0.0.1:0", false)
	if err := h.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err == nil && !strings.Contains(string(text), " 4711 ") {
			t.Errorf("%s belongs to somebody else:\n%s", l.Addr(), text)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// The user of the process, and of other threads, is as it was.
	out, err := exec.Command("id", "-u").Output()
	if err != nil || strings.TrimSpace(string(out)) != "0" {
		t.Errorf("the process runs as %s: %v", out, err)
	}
}

func TestARouterForwardsAndAGatewayIsUsed(t *testing.T) {
	a, r, b := netnstest.New(t, "a"), netnstest.New(t, "router"), netnstest.New(t, "b")
	netnstest.Cable(t, netnstest.Port{Host: a, Name: "eth0", Addrs: prefixes("10.1.0.1/24", "fd01::1/64")}, netnstest.Port{Host: r, Name: "a0", Addrs: prefixes("10.1.0.254/24", "fd01::fe/64")})
	netnstest.Cable(t, netnstest.Port{Host: b, Name: "eth0", Addrs: prefixes("10.2.0.1/24", "fd02::1/64")}, netnstest.Port{Host: r, Name: "b0", Addrs: prefixes("10.2.0.254/24", "fd02::fe/64")})
	r.Forward(t)
	for host, ways := range map[*netnstest.Host][]string{a: {"10.1.0.254", "fd01::fe"}, b: {"10.2.0.254", "fd02::fe"}} {
		for _, way := range ways {
			host.Gateway(t, netip.MustParseAddr(way))
		}
	}
	for _, address := range []string{"10.2.0.1:80", "[fd02::1]:80"} {
		netnstest.Banner(t, b.Listen(t, netnstest.User{}, address, false), func(c *net.TCPConn) string { return "hello" })
		c, err := a.Connect(netnstest.Dial{}, address)
		if got := read(t, c, err); got != "hello" {
			t.Errorf("%s: got %q", address, got)
		}
	}
}
