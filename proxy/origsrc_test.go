package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outrider/proxy/config/decode"
)

// ownNamespace runs the test again as a process in a network namespace of its
// own, and is false in the one outside, which has nothing more to do.
func ownNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "OUTRIDER_TEST_NAMESPACE"
	if os.Getenv(inside) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		if os.Getenv("CI") == "" {
			t.Skipf("no network namespace is to be had: %v", err)
		}
		t.Fatalf("no network namespace is to be had: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

const (
	answersMark  = 1337
	answersTable = 133
)

// answersComeBack gives the machine the addresses 10.7.7.1 and fd07::1, and
// sends what carries the mark to itself, whatever its destination is: the
// routes of TPROXY.
func answersComeBack(t *testing.T) {
	t.Helper()
	must := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	must("lo", err)
	must("lo up", netlink.LinkSetUp(lo))
	for _, prefix := range []string{"10.7.7.1/32", "fd07::1/128"} {
		a, err := netlink.ParseAddr(prefix)
		must(prefix, err)
		a.Flags = unix.IFA_F_NODAD
		must(prefix, netlink.AddrAdd(lo, a))
	}
	for family, all := range map[int]string{unix.AF_INET: "0.0.0.0/0", unix.AF_INET6: "::/0"} {
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table = family, answersMark, answersTable
		must("rule", netlink.RuleAdd(rule))
		_, dst, err := net.ParseCIDR(all)
		must(all, err)
		must("route", netlink.RouteAdd(&netlink.Route{
			Family: family, LinkIndex: lo.Attrs().Index, Dst: dst, Table: answersTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		}))
	}
	must("tcp_fwmark_accept", os.WriteFile("/proc/sys/net/ipv4/tcp_fwmark_accept", []byte("1"), 0o644))
}

// tellsPeer is an application that says who its client is.
func tellsPeer(t *testing.T, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().String())
			c.Close()
		}
	}()
	return ln.Addr().String()
}

// foreignDial connects from an address that this machine does not have.
func foreignDial(t *testing.T, from, to string) net.Conn {
	t.Helper()
	source := netip.MustParseAddrPort(from)
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(source), Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			level, name := unix.SOL_IP, unix.IP_TRANSPARENT
			if source.Addr().Is6() {
				level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			failed = errors.Join(
				unix.SetsockoptInt(int(fd), level, name, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, answersMark),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), // for bind_port: both ends are of this machine
			)
		})
		if err == nil {
			err = failed
		}
		return err
	}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func TestOriginalSourceIsKept(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	answersComeBack(t)
	for name, c := range map[string]struct{ at, from, filter, bind, want string }{
		"IPv4":               {"10.7.7.1:0", "198.51.100.7:4000", "{mark: 1337}", "", "198.51.100.7"},
		"IPv6":               {"[fd07::1]:0", "[2001:db8::7]:4000", "{mark: 1337}", "", "2001:db8::7"},
		"with the port":      {"10.7.7.1:0", "198.51.100.7:4001", "{mark: 1337, bind_port: true}", "", "198.51.100.7:4001"},
		"before bind_config": {"10.7.7.1:0", "198.51.100.7:4002", "{mark: 1337}", "10.7.7.1", "198.51.100.7"},
		"without the filter": {"10.7.7.1:0", "198.51.100.7:4003", "", "127.0.0.6", "127.0.0.6"},
	} {
		t.Run(name, func(t *testing.T) {
			app := netip.MustParseAddrPort(tellsPeer(t, c.at))
			filter, bind := "", ""
			if c.filter != "" {
				filter = `listener_filters: [{name: s, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, ` + c.filter[1:] + `}]`
			}
			if c.bind != "" {
				bind = fmt.Sprintf("upstream_bind_config: {source_address: {address: %s, port_value: 0}}", c.bind)
			}
			boot, err := decode.Bootstrap([]byte(fmt.Sprintf(`
static_resources:
  clusters:
  - name: app
    type: STATIC
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "%[1]s", port_value: %[2]d}}}}]}]}
    %[4]s
  listeners:
  - name: l
    address: {socket_address: {address: "%[1]s", port_value: 0}}
    %[3]s
    filter_chains: [{filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: app}}]}]
`, app.Addr(), app.Port(), filter, bind)), decode.Options{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(boot, Options{})
			if err != nil {
				t.Fatal(err)
			}
			start(t, s, t.TempDir())
			peer, err := io.ReadAll(foreignDial(t, c.from, s.Listening("l")[0].String()))
			if err != nil {
				t.Fatal(err)
			}
			got := string(peer)
			if _, err := netip.ParseAddr(c.want); err == nil {
				got, _, _ = net.SplitHostPort(got)
			}
			if got != c.want {
				t.Errorf("the application's client is %q, want %q", peer, c.want)
			}
		})
	}
}
