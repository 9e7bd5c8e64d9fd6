package iptables_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"outrider/iptables"
	"outrider/iptables/netnstest"
)

// The users in the pod.
var (
	root  = netnstest.User{}
	proxy = netnstest.User{UID: 1337, GID: 1337}
	app   = netnstest.User{UID: 1000, GID: 1000}
)

// wire is one family's addresses.
type wire struct {
	name              string
	pod, peer, second string // the pod's, the peer's, and another of the peer's
	loopback, source  string // 127.0.0.1 and what the proxy calls the application from
}

func wires() []wire {
	return []wire{
		{"IPv4", "10.1.0.1", "10.1.0.2", "10.2.0.2", "127.0.0.1", "127.0.0.6"},
		{"IPv6", "fd01::1", "fd01::2", "fd02::2", "::1", "::6"},
	}
}

func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// scene is a pod with an application and what stands for its sidecar, and a
// peer outside. Whoever is reached says who it is and where the call was to.
type scene struct {
	pod, peer *netnstest.Host
}

// The ports: the application's, and those on which the peer answers.
const (
	appPort     = 8080
	excludedIn  = 2222
	peerPort    = 9000
	excludedOut = 5432
	tunnelPort  = 15008
	resolver    = 53
)

func newScene(t *testing.T, transparent bool) scene {
	t.Helper()
	s := scene{pod: netnstest.New(t, "pod"), peer: netnstest.New(t, "peer")}
	netnstest.Cable(t,
		netnstest.Port{Host: s.pod, Name: "eth0", Addrs: prefixes("10.1.0.1/24", "fd01::1/64", "10.2.0.1/24", "fd02::1/64")},
		netnstest.Port{Host: s.peer, Name: "eth0", Addrs: prefixes("10.1.0.2/24", "fd01::2/64", "10.2.0.2/24", "fd02::2/64")})
	taken := func(who string) func(*net.TCPConn) string {
		return func(c *net.TCPConn) string {
			dst, err := netnstest.OriginalDestination(c)
			if err != nil {
				return err.Error()
			}
			if who == "in" { // who called is told of inbound ones
				return fmt.Sprintf("in %s from %s", dst, plain(c.RemoteAddr()).Addr())
			}
			return fmt.Sprintf("%s %s", who, dst)
		}
	}
	netnstest.Banner(t, s.pod.Listen(t, proxy, ":15001", false), taken("out"))
	netnstest.Banner(t, s.pod.Listen(t, proxy, ":15006", transparent), taken("in"))
	for _, port := range []int{appPort, excludedIn, tunnelPort} {
		netnstest.Banner(t, s.pod.Listen(t, app, at("", port), false), func(c *net.TCPConn) string {
			return fmt.Sprintf("app from %s", plain(c.RemoteAddr()).Addr())
		})
	}
	for _, port := range []int{peerPort, excludedOut, resolver} {
		netnstest.Banner(t, s.peer.Listen(t, root, at("", port), false), func(*net.TCPConn) string { return "peer" })
	}
	netnstest.Answer(t, s.peer.ListenPacket(t, root, at("", resolver)), "peer")
	for _, w := range wires() {
		netnstest.Answer(t, s.pod.ListenPacket(t, proxy, at(w.loopback, 15053)), "dns")
		netnstest.Banner(t, s.pod.Listen(t, proxy, at(w.loopback, 15053), false), func(*net.TCPConn) string { return "dns" })
	}
	return s
}

func plain(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// install applies c in the pod.
func (s scene) install(t *testing.T, b iptables.Backend, c iptables.Config) {
	t.Helper()
	i := &iptables.Installer{Backend: b, Log: slog.New(slog.DiscardHandler)}
	if err := s.pod.Do(func() error { return i.Apply(t.Context(), c) }); err != nil {
		t.Fatal(err)
	}
}

func (s scene) remove(t *testing.T, c iptables.Config) {
	t.Helper()
	i := &iptables.Installer{Log: slog.New(slog.DiscardHandler)}
	if err := s.pod.Do(func() error { return i.Cleanup(t.Context()) }); err != nil {
		t.Fatal(err)
	}
}

// backends are those that are tried here. Where the programs are missing that
// is a failure in CI.
func backends(t *testing.T) []iptables.Backend {
	t.Helper()
	all := []iptables.Backend{iptables.NFTables}
	for b, program := range map[iptables.Backend]string{iptables.IPTNFT: "iptables-nft-restore", iptables.IPTLegacy: "iptables-legacy-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			netnstest.Missing(t, fmt.Sprintf("the Debian package iptables: %v", err))
		}
		all = append(all, b)
	}
	return all
}

// call is a connection and who is to be reached.
type call struct {
	name string
	from *netnstest.Host
	dial netnstest.Dial
	to   string
	want string
}

func (s scene) check(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		got, err := c.from.Ask(c.dial, c.to)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s, to %s: got %q, want %q", c.name, c.to, got, c.want)
		}
	}
}

// by is a call of a user's.
func by(u netnstest.User) netnstest.Dial { return netnstest.Dial{User: u} }

// everywhere runs a test with each backend and family.
func everywhere(t *testing.T, test func(t *testing.T, b iptables.Backend, w wire)) {
	for _, b := range backends(t) {
		for _, w := range wires() {
			t.Run(string(b)+"/"+w.name, func(t *testing.T) { test(t, b, w) })
		}
	}
}

// everything takes all that goes in and out, but for what is left out.
func everything() iptables.Config {
	c := iptables.Default()
	c.AllInbound, c.AllOutbound = true, true
	c.ExcludeInboundPorts, c.ExcludeOutboundPorts = []uint16{excludedIn}, []uint16{excludedOut}
	c.ExcludeOutboundCIDRs = prefixes("10.2.0.0/24", "fd02::/64")
	return c
}

func TestRedirectTakesWhatItShallAndNothingElse(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		s := newScene(t, false)
		c := everything()
		c.Mark = 0x539a
		s.install(t, b, c)
		s.check(t, []call{
			{"inbound", s.peer, by(root), at(w.pod, appPort), "in " + at(w.pod, appPort) + " from " + w.peer},
			{"inbound, nobody listens", s.peer, by(root), at(w.pod, 7), "in " + at(w.pod, 7) + " from " + w.peer},
			{"inbound, excluded port", s.peer, by(root), at(w.pod, excludedIn), "app from " + w.peer},
			{"inbound, tunnel port", s.peer, by(root), at(w.pod, tunnelPort), "app from " + w.peer},
			{"outbound", s.pod, by(app), at(w.peer, peerPort), "out " + at(w.peer, peerPort)},
			{"outbound of root", s.pod, by(root), at(w.peer, peerPort), "out " + at(w.peer, peerPort)},
			{"outbound, excluded port", s.pod, by(app), at(w.peer, excludedOut), "peer"},
			{"outbound, excluded range", s.pod, by(app), at(w.second, peerPort), "peer"},
			{"the proxy by its user", s.pod, by(netnstest.User{UID: 1337}), at(w.peer, peerPort), "peer"},
			{"the proxy by its group", s.pod, by(netnstest.User{UID: 5, GID: 1337}), at(w.peer, peerPort), "peer"},
			{"the proxy by its mark", s.pod, netnstest.Dial{User: app, Mark: 0x539a}, at(w.peer, peerPort), "peer"},
			{"another mark", s.pod, netnstest.Dial{User: app, Mark: 0x539b}, at(w.peer, peerPort), "out " + at(w.peer, peerPort)},
			{"the application to itself by loopback", s.pod, by(app), at(w.loopback, appPort), "app from " + w.loopback},
			{"the application to itself by its address", s.pod, by(app), at(w.pod, appPort), "app from " + w.pod},
			{"the proxy to its own host is inbound", s.pod, by(proxy), at(w.pod, appPort), "in " + at(w.pod, appPort) + " from " + w.pod},
			{"the proxy by mark to its own host is inbound", s.pod, netnstest.Dial{User: app, Mark: 0x539a}, at(w.pod, appPort), "in " + at(w.pod, appPort) + " from " + w.pod},
			{"the proxy to the application by loopback", s.pod, by(proxy), at(w.loopback, appPort), "app from " + w.loopback},
			{"the proxy to the application from its own address", s.pod, netnstest.Dial{User: proxy, Local: w.source}, at(w.pod, appPort), "app from " + w.source},
		})
		s.remove(t, c)
		s.check(t, []call{
			{"inbound, after the cleanup", s.peer, by(root), at(w.pod, appPort), "app from " + w.peer},
			{"outbound, after the cleanup", s.pod, by(app), at(w.peer, peerPort), "peer"},
		})
	})
}

func TestTproxyHandsOverConnectionsAsTheyAre(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		s := newScene(t, true)
		c := everything()
		c.Mode, c.DropInvalid, c.Mark = iptables.TProxy, true, 0x539a
		s.install(t, b, c)
		in := fmt.Sprintf("in %s from ", at(w.pod, appPort))
		s.check(t, []call{
			{"inbound", s.peer, by(root), at(w.pod, appPort), in + w.peer},
			{"inbound, excluded port", s.peer, by(root), at(w.pod, excludedIn), "app from " + w.peer},
			{"inbound, tunnel port", s.peer, by(root), at(w.pod, tunnelPort), "app from " + w.peer},
			{"outbound is redirected", s.pod, by(app), at(w.peer, peerPort), "out " + at(w.peer, peerPort)},
			{"the proxy's own", s.pod, by(proxy), at(w.peer, peerPort), "peer"},
			{"the application to itself by its address", s.pod, by(app), at(w.pod, appPort), "app from " + w.pod},
			{"the proxy to its own host is inbound", s.pod, by(proxy), at(w.pod, appPort), in + w.pod},
			{"the proxy by its mark", s.pod, netnstest.Dial{User: app, Mark: c.Mark}, at(w.peer, peerPort), "peer"},
			{"the proxy by its mark to its own host is inbound", s.pod, netnstest.Dial{User: app, Mark: c.Mark}, at(w.pod, appPort), in + w.pod},
			{"the proxy to the application from its own address", s.pod, netnstest.Dial{User: proxy, Local: w.source}, at(w.pod, appPort), "app from " + w.source},
			{"the proxy to the application as the caller", s.pod, netnstest.Dial{User: proxy, Local: w.peer, Transparent: true, Mark: c.TProxyMark}, at(w.pod, appPort), "app from " + w.peer},
		})
		s.remove(t, c)
		s.check(t, []call{{"inbound, after the cleanup", s.peer, by(root), at(w.pod, appPort), "app from " + w.peer}})
	})
}

func TestWithoutASidecarNothingReachesTheApplication(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		for _, mode := range []iptables.Mode{iptables.Redirect, iptables.TProxy} {
			pod, peer := netnstest.New(t, "pod"), netnstest.New(t, "peer")
			netnstest.Cable(t,
				netnstest.Port{Host: pod, Name: "eth0", Addrs: prefixes("10.1.0.1/24", "fd01::1/64")},
				netnstest.Port{Host: peer, Name: "eth0", Addrs: prefixes("10.1.0.2/24", "fd01::2/64")})
			netnstest.Banner(t, pod.Listen(t, app, at("", appPort), false), func(*net.TCPConn) string { return "app" })
			netnstest.Banner(t, peer.Listen(t, root, at("", peerPort), false), func(*net.TCPConn) string { return "peer" })
			c := everything()
			c.Mode = mode
			scene{pod: pod}.install(t, b, c)
			if got, err := peer.Ask(netnstest.Dial{Timeout: 200 * time.Millisecond}, at(w.pod, appPort)); err == nil {
				t.Errorf("%s: inbound reaches %q", mode, got)
			}
			if got, err := pod.Ask(netnstest.Dial{User: app, Timeout: 200 * time.Millisecond}, at(w.peer, peerPort)); err == nil {
				t.Errorf("%s: outbound reaches %q", mode, got)
			}
		}
	})
}

func TestDNSIsTakenToTheSidecarAndItsOwnIsNot(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		for _, all := range []bool{false, true} {
			s := newScene(t, false)
			c := iptables.Default()
			c.DNS, c.AllDNS = true, all
			other := "peer"
			if all {
				other = "dns"
			} else {
				c.DNSServers = []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2")}
			}
			s.install(t, b, c)
			for _, udp := range []bool{true, false} {
				question := func(u netnstest.User) netnstest.Dial { return netnstest.Dial{User: u, UDP: udp} }
				name := fmt.Sprintf("all %v, UDP %v: ", all, udp)
				s.check(t, []call{
					{name + "the application's", s.pod, question(app), at(w.peer, resolver), "dns"},
					{name + "to another server", s.pod, question(app), at(w.second, resolver), other},
					{name + "the proxy's", s.pod, question(proxy), at(w.peer, resolver), "peer"},
				})
			}
			s.remove(t, c)
			s.check(t, []call{{"after the cleanup", s.pod, netnstest.Dial{User: app, UDP: true}, at(w.peer, resolver), "peer"}})
		}
	})
}

func TestOnlyWhatIsListedIsTaken(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		for _, mode := range []iptables.Mode{iptables.Redirect, iptables.TProxy} {
			s := newScene(t, mode == iptables.TProxy)
			c := iptables.Default()
			c.Mode = mode
			c.InboundPorts, c.OutboundPorts = []uint16{appPort}, []uint16{excludedOut}
			c.OutboundCIDRs = prefixes("10.2.0.0/24", "fd02::/64")
			s.install(t, b, c)
			in := "in " + at(w.pod, appPort) + " from " + w.peer
			s.check(t, []call{
				{"inbound, listed", s.peer, by(root), at(w.pod, appPort), in},
				{"inbound, another port", s.peer, by(root), at(w.pod, excludedIn), "app from " + w.peer},
				{"outbound, listed range", s.pod, by(app), at(w.second, peerPort), "out " + at(w.second, peerPort)},
				{"outbound, listed port", s.pod, by(app), at(w.peer, excludedOut), "out " + at(w.peer, excludedOut)},
				{"outbound, neither", s.pod, by(app), at(w.peer, peerPort), "peer"},
			})
		}
	})
}

func TestOnlyTheListedGroupsAreTaken(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		one, two, three := netnstest.User{UID: 7, GID: 100}, netnstest.User{UID: 7, GID: 101}, netnstest.User{UID: 7, GID: 102}
		out := "out " + at(w.peer, peerPort)
		for name, test := range map[string]struct {
			change func(*iptables.Config)
			want   [3]string
		}{
			"included": {func(c *iptables.Config) { c.OwnerGroups = []uint32{100, 101} }, [3]string{out, out, "peer"}},
			"excluded": {func(c *iptables.Config) { c.ExcludeOwnerGroups = []uint32{100, 101} }, [3]string{"peer", "peer", out}},
		} {
			s := newScene(t, false)
			c := iptables.Default()
			c.AllOutbound = true
			test.change(&c)
			s.install(t, b, c)
			for i, u := range []netnstest.User{one, two, three} {
				s.check(t, []call{{fmt.Sprintf("%s: group %d", name, u.GID), s.pod, by(u), at(w.peer, peerPort), test.want[i]}})
			}
		}
	})
}

func TestExcludedInterfacesAreLeftAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		for _, mode := range []iptables.Mode{iptables.Redirect, iptables.TProxy} {
			s := newScene(t, mode == iptables.TProxy)
			c := everything()
			c.Mode, c.ExcludeInterfaces = mode, []string{"eth0"}
			s.install(t, b, c)
			s.check(t, []call{
				{"inbound", s.peer, by(root), at(w.pod, appPort), "app from " + w.peer},
				{"outbound", s.pod, by(app), at(w.peer, peerPort), "peer"},
			})
		}
	})
}

func TestAVirtualMachinesTrafficIsOutbound(t *testing.T) {
	everywhere(t, func(t *testing.T, b iptables.Backend, w wire) {
		for _, mode := range []iptables.Mode{iptables.Redirect, iptables.TProxy} {
			s := newScene(t, mode == iptables.TProxy)
			vm := netnstest.New(t, "vm")
			netnstest.Cable(t,
				netnstest.Port{Host: s.pod, Name: "k6t-net0", Addrs: prefixes("10.9.0.1/24", "fd09::1/64")},
				netnstest.Port{Host: vm, Name: "eth0", Addrs: prefixes("10.9.0.2/24", "fd09::2/64")})
			via := map[string]string{"IPv4": "10.9.0.1", "IPv6": "fd09::1"}[w.name]
			vm.Gateway(t, netip.MustParseAddr(via))
			c := everything()
			c.Mode, c.KubeVirtInterfaces = mode, []string{"k6t-net0"}
			s.install(t, b, c)
			s.check(t, []call{
				{string(mode) + ": the machine's", vm, by(root), at(w.peer, peerPort), "out " + at(w.peer, peerPort)},
				{string(mode) + ": to the pod itself", vm, by(root), at(w.pod, appPort), "out " + at(w.pod, appPort)},
			})
		}
	})
}

// A program of a user of its own is seen as that user, like the sockets above.
func TestAProgramIsToldByItsUser(t *testing.T) {
	s := newScene(t, false)
	s.install(t, iptables.NFTables, everything())
	if _, err := exec.LookPath("bash"); err != nil {
		netnstest.Missing(t, fmt.Sprintf("bash: %v", err))
	}
	for uid, want := range map[string]string{"1337": "peer", "1000": "out 10.1.0.2:9000"} {
		got := s.pod.Run(t, "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "bash", "-c", "read line </dev/tcp/10.1.0.2/9000; echo $line")
		if strings.TrimSpace(got) != want {
			t.Errorf("uid %s reaches %q, want %q", uid, got, want)
		}
	}
}
