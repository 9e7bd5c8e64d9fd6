package listener

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func TestOriginalDestinationIsRestored(t *testing.T) {
	at := netip.MustParseAddrPort
	odst := &config.ListenerFilter{Name: "o", OriginalDst: &config.OriginalDst{}}
	wildcard := config.Listener{Address: config.Address{AddrPort: at("0.0.0.0:15006")}}
	tproxy := wildcard
	tproxy.Transparent = true
	for _, c := range []struct {
		name         string
		cfg          config.Listener
		local, found string // found "" is none
		want         string
		restored     bool
	}{
		{"redirected", wildcard, "10.0.0.1:15006", "10.0.0.9:80", "10.0.0.9:80", true},
		{"not redirected, but tracked", wildcard, "10.0.0.1:15006", "10.0.0.1:15006", "10.0.0.1:15006", false},
		{"not tracked", wildcard, "10.0.0.1:15006", "", "10.0.0.1:15006", false},
		{"tproxy", tproxy, "10.0.0.9:80", "", "10.0.0.9:80", true},
		{"tproxy, tracked", tproxy, "10.0.0.9:80", "10.0.0.9:80", "10.0.0.9:80", true},
		{"to a tproxy listener itself", tproxy, "10.0.0.1:15006", "", "10.0.0.1:15006", false},
	} {
		r := newRig(t, c.cfg, odst)
		r.restore = func(net.Conn, netip.AddrPort) (netip.AddrPort, bool, error) {
			if c.found == "" {
				return netip.AddrPort{}, false, nil
			}
			return at(c.found), true, nil
		}
		info := &flow.Info{Local: flow.Addr{AddrPort: at(c.local)}}
		_, server := pair(t)
		err := r.Run(t.Context(), server, info)
		if err != nil || info.Local.AddrPort != at(c.want) || info.LocalRestored != c.restored {
			t.Errorf("%s: %s restored %v, %v; want %s restored %v", c.name, info.Local, info.LocalRestored, err, c.want, c.restored)
		}
	}
	// The system's own answer here: nothing was redirected.
	r := newRig(t, config.Listener{}, odst)
	_, server := pair(t)
	info := newInfo(server)
	if err := r.Run(t.Context(), server, info); err != nil || info.LocalRestored || info.Local != info.DirectLocal {
		t.Errorf("a plain connection: %s restored %v, %v", info.Local, info.LocalRestored, err)
	}
}

type answers struct {
	v4, v6 []byte
	asked  string
}

func (a *answers) ipv4(int) ([]byte, error) { a.asked = "4"; return a.v4, nil }
func (a *answers) ipv6(int) ([]byte, error) { a.asked = "6"; return a.v6, nil }

func TestOriginalDestinationIsAskedForByFamily(t *testing.T) {
	v4 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0x1f, 0x90, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0)
	v6 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), 0x1f, 0x90, 0, 0, 0, 0)
	ip := netip.MustParseAddr("fd00::9").As16()
	v6 = append(append(v6, ip[:]...), 0, 0, 0, 0)
	for local, want := range map[string]string{
		"10.0.0.1:15006": "4 10.1.2.3:8080", "[::ffff:10.0.0.1]:15006": "4 10.1.2.3:8080", "[fd00::1]:15006": "6 [fd00::9]:8080",
	} {
		a := &answers{v4: v4, v6: v6}
		got, err := lookUp(0, netip.MustParseAddrPort(local), a)
		if err != nil || a.asked+" "+got.String() != want {
			t.Errorf("%s: asked for %s, got %s %v; want %s", local, a.asked, got, err, want)
		}
	}
	for n := range v6 {
		if _, err := sockaddr(v6[:n]); err == nil {
			t.Errorf("%d bytes of a sockaddr_in6 are accepted", n)
		}
	}
	if _, err := sockaddr(make([]byte, 28)); err == nil {
		t.Error("an address without a family is accepted")
	}
}
