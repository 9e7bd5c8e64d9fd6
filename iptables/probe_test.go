package iptables_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"outrider/iptables"
	"outrider/iptables/netnstest"
)

// probed is a pod with a way out, nothing listening, and a log.
func probed(t *testing.T) (pod *netnstest.Host, i *iptables.Installer, log *bytes.Buffer) {
	t.Helper()
	pod, out := netnstest.New(t, "pod"), netnstest.New(t, "out")
	netnstest.Cable(t,
		netnstest.Port{Host: pod, Name: "eth0", Addrs: prefixes("10.1.0.1/24", "fd01::1/64")},
		netnstest.Port{Host: out, Name: "eth0", Addrs: prefixes("10.1.0.2/24", "fd01::2/64")})
	for _, via := range []string{"10.1.0.2", "fd01::2"} {
		pod.Gateway(t, netip.MustParseAddr(via))
	}
	log = &bytes.Buffer{}
	return pod, &iptables.Installer{Log: slog.New(slog.NewTextHandler(log, nil))}, log
}

func probe(t *testing.T, pod *netnstest.Host, i *iptables.Installer, c iptables.Config, timeout time.Duration) error {
	t.Helper()
	return pod.Do(func() error {
		return i.Probe(t.Context(), iptables.Probe{Config: c, Port: 15002, Timeout: timeout})
	})
}

func TestProbeTellsThatTheRedirectionWorks(t *testing.T) {
	for _, mode := range []iptables.Mode{iptables.Redirect, iptables.TProxy} {
		for _, b := range backends(t) {
			t.Run(string(b)+" "+string(mode), func(t *testing.T) {
				pod, i, log := probed(t)
				i.Backend = b
				c := everything()
				c.Mode = mode
				if err := pod.Do(func() error { return i.Apply(t.Context(), c) }); err != nil {
					t.Fatal(err)
				}
				if err := probe(t, pod, i, c, 10*time.Second); err != nil {
					t.Fatal(err)
				}
				for _, what := range []string{"inbound, IPv4", "inbound, IPv6", "outbound, IPv4", "outbound, IPv6"} {
					if !strings.Contains(log.String(), `msg="redirection works" what="`+what) {
						t.Errorf("%s was not tried:\n%s", what, log)
					}
				}
			})
		}
	}
}

func TestProbeTellsWhatDoesNotWork(t *testing.T) {
	pod, i, log := probed(t)
	c := everything()
	err := probe(t, pod, i, c, 100*time.Millisecond)
	if err == nil {
		t.Fatalf("there is no redirection, and all works:\n%s", log)
	}
	for _, what := range []string{"inbound, IPv4: ", "inbound, IPv6: ", "outbound, IPv4: ", "outbound, IPv6: "} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("nothing of %q in: %v", what, err)
		}
	}
	if err := pod.Do(func() error { return i.Apply(t.Context(), c) }); err != nil {
		t.Fatal(err)
	}
	pod.Listen(t, proxy, ":15006", false)
	if err := probe(t, pod, i, c, time.Second); err == nil || !strings.Contains(err.Error(), "before it is there") {
		t.Errorf("the sidecar is there already: %v", err)
	}
}

func TestProbeIsNotTakenInByCallsOfOthers(t *testing.T) {
	pod, i, _ := probed(t)
	c := iptables.Default()
	c.IPv6, c.AllOutbound = false, true
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // calls the sidecar's port all the time, and is not redirected
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := pod.Connect(netnstest.Dial{Timeout: time.Second}, "127.0.0.1:15001"); err == nil {
				c.Close()
			}
		}
	}()
	if err := pod.Do(func() error { return i.Apply(t.Context(), c) }); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, pod, i, c, 10*time.Second); err != nil {
		t.Error(err)
	}
	// Another program takes the probe's call before, and the others still arrive.
	netnstest.Banner(t, pod.Listen(t, root, "127.0.0.1:9999", false), func(*net.TCPConn) string { return "another" })
	pod.Run(t, "nft", "add table ip other; add chain ip other out { type nat hook output priority -110; }; add rule ip other out tcp dport 15002 redirect to :9999")
	if err := probe(t, pod, i, c, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not come to 127.0.0.1:15001") {
		t.Errorf("another program takes the call: %v", err)
	}
	close(stop)
	<-done
}

func TestProbeCallsWhatIsRedirectedAndLeavesOutTheRest(t *testing.T) {
	pod, i, log := probed(t)
	c := iptables.Default()
	c.IPv6, c.OutboundCIDRs, c.ExcludeOutboundCIDRs = false, prefixes("10.5.0.0/16", "10.6.0.0/16"), prefixes("10.5.0.0/24")
	if err := pod.Do(func() error { return i.Apply(t.Context(), c) }); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, pod, i, c, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "to=10.6.0.1:15002") || strings.Contains(log.String(), "inbound,") {
		t.Errorf("one call is right, to 10.6.0.1:15002:\n%s", log)
	}
	c.OutboundCIDRs = nil
	if err := probe(t, pod, i, c, 10*time.Second); err == nil || !strings.Contains(err.Error(), "nothing of the redirection could be tried") {
		t.Errorf("nothing is redirected: %v", err)
	}
}
