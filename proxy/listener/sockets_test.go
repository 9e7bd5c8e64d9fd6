package listener

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outrider/proxy/config"
)

func ip(s string) config.Address { return config.Address{AddrPort: netip.MustParseAddrPort(s)} }

// listen opens cfg's sockets and closes them at the end.
func listen(t *testing.T, cfg *config.Listener) []net.Listener {
	t.Helper()
	all, err := Listen(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, ln := range all {
		t.Cleanup(func() { ln.Close() })
	}
	return all
}

// reaches reports whether a connection to network and addr gets to ln.
func reaches(t *testing.T, ln net.Listener, network, addr string) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() { client.Write([]byte("x")) }()
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func option(t *testing.T, c any, level, name int) int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	if err := withFD(raw, func(fd int) (err error) { v, err = unix.GetsockoptInt(fd, level, name); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStatNameHasNoColons(t *testing.T) {
	for want, a := range map[string]config.Address{
		"0.0.0.0_15006": ip("0.0.0.0:15006"), "[__]_15006": ip("[::]:15006"), "[__1]_80": ip("[::1]:80"),
		"/run/a.sock": {Pipe: "/run/a.sock"}, "@abstract": {Pipe: "@abstract"},
	} {
		if got := StatName(a); got != want {
			t.Errorf("StatName(%s) = %q, want %q", a, got, want)
		}
	}
}

func TestListenOpensEveryAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	all := listen(t, &config.Listener{Name: "l", Address: ip("127.0.0.1:0"), Additional: []config.Address{
		ip("[::1]:0"), {Pipe: path, PipeMode: 0o600}, {Pipe: "@outrider-test-" + filepath.Base(t.TempDir()) + t.Name()},
	}})
	if len(all) != 4 {
		t.Fatalf("%d sockets, want 4", len(all))
	}
	for _, ln := range all {
		reaches(t, ln, ln.Addr().Network(), ln.Addr().String())
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket file: %v %v, want mode 0600", st, err)
	}
}

func TestIPv6TakesIPv4OnlyIfToldSo(t *testing.T) {
	for _, compat := range []bool{false, true} {
		a := ip("[::]:0")
		a.IPv4Compat = compat
		ln := listen(t, &config.Listener{Address: a})[0]
		v4 := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ln.Addr().(*net.TCPAddr).AddrPort().Port()).String()
		c, err := net.Dial("tcp4", v4)
		if err == nil {
			c.Close()
		}
		if (err == nil) != compat {
			t.Errorf("ipv4_compat %v: dialing %s: %v", compat, v4, err)
		}
	}
}

func TestASocketFileIsTakenOverAndOnlyASocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cfg := &config.Listener{Address: config.Address{Pipe: path}}
	old := listen(t, cfg)[0]
	fresh := listen(t, cfg)[0]
	old.Close()
	reaches(t, fresh, "unix", path) // the end of the old one has not removed it

	plain := filepath.Join(t.TempDir(), "file")
	os.WriteFile(plain, []byte("precious"), 0o600)
	_, err := Listen(&config.Listener{Name: "l", Address: config.Address{Pipe: plain}}, nil)
	if b, _ := os.ReadFile(plain); err == nil || !strings.Contains(err.Error(), plain) || string(b) != "precious" {
		t.Errorf("a file in the way: %v, its content is %q", err, b)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("a", 108))
	if _, err := Listen(&config.Listener{Address: config.Address{Pipe: long}}, nil); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("a path too long: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "no", "s")
	if _, err := Listen(&config.Listener{Address: config.Address{Pipe: missing}}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestAnAddressInUseIsNamedAndNothingStaysOpen(t *testing.T) {
	taken := listen(t, &config.Listener{Address: ip("127.0.0.1:0")})[0].Addr().String()
	path := filepath.Join(t.TempDir(), "s")
	_, err := Listen(&config.Listener{Name: "two", Address: config.Address{Pipe: path}, Additional: []config.Address{ip(taken)}}, nil)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), taken) || !strings.Contains(err.Error(), `"two"`) {
		t.Errorf("got %v, want the listener and the address %s", err, taken)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Error("the first socket has stayed open")
	}
}

func TestReusePortLetsASecondListenerTakeOver(t *testing.T) {
	cfg := &config.Listener{Address: ip("127.0.0.1:0"), ReusePort: true}
	old := listen(t, cfg)[0]
	fresh := listen(t, &config.Listener{Address: ip(old.Addr().String()), ReusePort: true})[0]
	old.Close()
	reaches(t, fresh, "tcp", fresh.Addr().String())
}

func TestAcceptedConnectionsHaveTheKeepaliveOfTheListener(t *testing.T) {
	for _, c := range []struct {
		keepalive *config.Keepalive
		want      [4]int // on, idle, interval, probes; 0 is not looked at
	}{
		{nil, [4]int{}},
		{&config.Keepalive{Probes: 3, Time: 20 * time.Second, Interval: 5 * time.Second}, [4]int{1, 20, 5, 3}},
		{&config.Keepalive{Time: 30 * time.Second}, [4]int{1, 30}},
	} {
		ln := listen(t, &config.Listener{Address: ip("127.0.0.1:0"), Keepalive: c.keepalive})[0]
		_, server := reaches(t, ln, "tcp", ln.Addr().String())
		got := [4]int{option(t, server, unix.SOL_SOCKET, unix.SO_KEEPALIVE)}
		for i, name := range []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT} {
			if c.want[i+1] != 0 {
				got[i+1] = option(t, server, unix.IPPROTO_TCP, name)
			}
		}
		if got != c.want {
			t.Errorf("%+v: got %v, want %v", c.keepalive, got, c.want)
		}
	}
}

func TestSocketOptionsAreSetInEveryState(t *testing.T) {
	cfg := &config.Listener{Address: ip("127.0.0.1:0"), Freebind: true, Backlog: 7, SocketOptions: []config.SocketOption{
		{Level: unix.SOL_SOCKET, Name: unix.SO_PRIORITY, Int: 3},
		{Level: unix.IPPROTO_TCP, Name: unix.TCP_DEFER_ACCEPT, Int: 1, State: config.StateBound},
		{Level: unix.IPPROTO_TCP, Name: unix.TCP_USER_TIMEOUT, Buf: []byte{0x10, 0x27, 0, 0}, State: config.StateListening},
	}}
	ln := listen(t, cfg)[0]
	got := [5]int{
		option(t, ln, unix.SOL_SOCKET, unix.SO_PRIORITY), option(t, ln, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT),
		option(t, ln, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT), option(t, ln, unix.SOL_IP, unix.IP_FREEBIND),
		option(t, ln, unix.SOL_SOCKET, unix.SO_PROTOCOL),
	}
	if want := [5]int{3, 1, 10000, 1, unix.IPPROTO_TCP}; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, state := range []config.SocketState{config.StatePrebind, config.StateBound, config.StateListening} {
		cfg := &config.Listener{Address: ip("127.0.0.1:0"), SocketOptions: []config.SocketOption{{Level: 12345, Name: 678, Int: 1, State: state}}}
		if _, err := Listen(cfg, nil); err == nil || !strings.Contains(err.Error(), "socket option 678 of level 12345") {
			t.Errorf("an option that does not exist, state %d: %v", state, err)
		}
	}
}

func TestAnAddressThatIsNotHereNeedsFreebind(t *testing.T) {
	cfg := &config.Listener{Address: ip("192.0.2.1:0")} // RFC 5737: nobody's
	if _, err := Listen(cfg, nil); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("without freebind: %v", err)
	}
	cfg.Freebind = true
	listen(t, cfg)
}

// IP_TRANSPARENT needs CAP_NET_ADMIN: with it the option is set, without it the
// refusal says what was refused.
func TestATransparentListenerHasTheOptionOrSaysWhyNot(t *testing.T) {
	for _, c := range []struct {
		address     string
		level, name int
	}{{"127.0.0.1:0", unix.SOL_IP, unix.IP_TRANSPARENT}, {"[::1]:0", unix.SOL_IPV6, unix.IPV6_TRANSPARENT}} {
		all, err := Listen(&config.Listener{Address: ip(c.address), Transparent: true}, nil)
		if err != nil {
			if !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "IP_TRANSPARENT") {
				t.Errorf("%s: %v", c.address, err)
			}
			continue
		}
		defer all[0].Close()
		if option(t, all[0], c.level, c.name) != 1 {
			t.Errorf("%s: the option is not set", c.address)
		}
	}
}
