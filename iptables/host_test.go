package iptables_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"outrider/iptables"
	"outrider/iptables/netnstest"
)

func TestTheKernelHasIPv6UnlessItIsSwitchedOff(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func() error
		want    bool
	}{
		"as it is": {func() error { return nil }, true},
		"before lo is up": {func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(lo)
		}, true},
		"switched off": {func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) }, false},
	} {
		var got bool
		err := netnstest.New(t, "host").Do(func() error {
			err := test.prepare()
			got = iptables.KernelHasIPv6()
			return err
		})
		if err != nil || got != test.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, test.want)
		}
	}
}

func TestNameserversAreThoseOfResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# nameserver 1.1.1.1\nsearch a.b\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.1\noptions ndots:5\n")
	got, err := iptables.Nameservers(path)
	var want []netip.Addr
	for _, s := range []string{"10.96.0.10", "fe80::1", "10.0.0.1"} {
		want = append(want, netip.MustParseAddr(s))
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	write("nameserver dns.example.org\n")
	if _, err := iptables.Nameservers(path); err == nil || !strings.Contains(err.Error(), `nameserver "dns.example.org"`) {
		t.Errorf("a name is taken for an address: %v", err)
	}
	if _, err := iptables.Nameservers(path + ".none"); err == nil {
		t.Error("a file that is not there is taken")
	}
}
