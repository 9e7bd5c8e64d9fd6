//go:build netns

package netns

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/iptables/netnstest"
	"outrider/proxy/istio/istiod/istiodtest"
	"outrider/proxy/xds/xdstest"
)

// The answers of the resolver of resolv.conf, and of another one.
const usualAnswer, otherAnswer = "192.0.2.53", "192.0.2.99"

// resolver answers every question for an address with one, on port 53.
func resolver(t *testing.T, h *host, address string) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(address)}}
		w.WriteMsg(m)
	})
	for _, f := range families() {
		servers := []*dns.Server{
			{PacketConn: h.ListenPacket(t, root, f.at(h, 53)), Handler: handler},
			{Listener: h.Listen(t, root, f.at(h, 53), false), Handler: handler},
		}
		for _, s := range servers {
			up, done := make(chan struct{}), make(chan error, 1)
			s.NotifyStartedFunc = func() { close(up) }
			go func() { done <- s.ActivateAndServe() }()
			<-up
			t.Cleanup(func() {
				s.Shutdown()
				<-done
			})
		}
	}
}

// resolve is the address of a name, as an application of u asks a server.
func (h *host) resolve(u netnstest.User, udp bool, server, name string) string {
	c, err := h.Connect(netnstest.Dial{User: u, UDP: udp}, server)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err.Error()
	}
	conn := &dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
		return err.Error()
	}
	m, err := conn.ReadMsg()
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			out = append(out, a.A.String())
		}
	}
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(out, " ")
}

// named is a recorded control plane with the table of names of the same time.
func named(t *testing.T) *xdstest.Replay {
	t.Helper()
	r := xdstest.NewReplay(t, "../../config/decode/testdata/istiod/permissive-user-web-delta", true)
	r.Add(t, "../../dns/testdata/nds.pb")
	return r
}

// dnsWorld is a client whose DNS its sidecar answers, a resolver (2) and another
// one (3).
func dnsWorld(t *testing.T, s setup) (w *world, client *sidecar) {
	t.Helper()
	needPrograms(t)
	w = &world{t: t, setup: s, outrider: binary(t, "OUTRIDER"), router: netnstest.New(t, "router")}
	w.router.Forward(t)
	w.client, w.server, w.plain, w.ca = w.host("client", 1), w.host("resolver", 2), w.host("other", 3), w.host("istiod", 4)
	resolver(t, w.server, usualAnswer)
	resolver(t, w.plain, otherAnswer)
	istiod := istiodtest.New(t, istiodtest.Options{
		Serves:  func(string) *xdstest.Script { return named(t).Script() },
		Address: "10.4.0.1:15012",
		Listen: func(address string) (l net.Listener, err error) {
			err = w.ca.Do(func() error {
				l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
				return err
			})
			return l, err
		},
	})
	h := w.client
	istiod.Root(t, h.dir)
	istiod.Token(t, h.dir, spiffeid.RequireFromString("spiffe://cluster.local/ns/dev/sa/default"))
	write(t, filepath.Join(h.dir, "resolv.conf"), "search dev.svc.cluster.local\nnameserver 10.2.0.1\nnameserver fd02::1\n")
	w.rules(h, "--redirect-dns", "--capture-all-dns")
	p := h.start(t, proxyUser, "/usr/bin/env", "POD_NAME=user-web-1", "POD_NAMESPACE=dev", "SERVICE_ACCOUNT=default",
		w.outrider, "sidecar", "--istiod", "10.4.0.1:15012", "--istiod-server-name", istiodtest.Name, "--ca-root-cert", "root-cert.pem", "--token-path", "istio-token",
		"--dns-capture", "--dns-resolv-conf", "resolv.conf", "-l", "debug")
	client = &sidecar{program: p, w: w, host: h}
	client.ready()
	return w, client
}

func TestCapturedDNSIsAnsweredByTheSidecar(t *testing.T) {
	for _, s := range []setup{{"nftables", "REDIRECT"}, {"iptables", "REDIRECT"}} {
		t.Run(s.backend, func(t *testing.T) {
			w, client := dnsWorld(t, s)
			w.t = t
			client.until("the table of names", func() bool {
				_, text, err := client.get("127.0.0.1:15000/dns_table")
				return err == nil && strings.Contains(text, `"come": true`)
			})
			for _, f := range families() {
				for _, udp := range []bool{true, false} {
					usual, other := f.at(w.server, 53), f.at(w.plain, 53)
					for _, c := range []struct {
						what   string
						user   netnstest.User
						server string
						name   string
						want   string
					}{
						{"a service", appUser, usual, ucHost + ".", "10.96.0.10"},
						{"a service, of a resolver that there is not", appUser, at("10.2.0.77", 53), ucHost + ".", "10.96.0.10"},
						{"another name", appUser, usual, "example.org.", usualAnswer},
						{"another name, of another resolver", appUser, other, "other.example.org.", otherAnswer},
						{"the sidecar's own question", proxyUser, other, ucHost + ".", otherAnswer},
					} {
						if got, want := w.client.resolve(c.user, udp, c.server, c.name), "NOERROR "+c.want; got != want {
							t.Errorf("%s, UDP %t, %s: %q, want %q", f.name, udp, c.what, got, want)
						}
					}
				}
			}
			if n := client.count("outrider.dns.", "loops_total"); n != 0 {
				t.Errorf("%d of its own questions came back", n)
			}
		})
	}
}
