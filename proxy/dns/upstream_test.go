package dns

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"outrider/proxy/stats"
)

func TestServersAreAskedInOrderUntilOneAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		first func(wire.ResponseWriter, *wire.Msg)
		want  string
	}{
		"SERVFAIL":                   {code(wire.RcodeServerFailure), "192.0.2.2"},
		"REFUSED":                    {code(wire.RcodeRefused), "192.0.2.2"},
		"nothing":                    {func(wire.ResponseWriter, *wire.Msg) {}, "192.0.2.2"},
		"an answer":                  {says("192.0.2.1"), "192.0.2.1"},
		"an answer to another ID":    {func(w wire.ResponseWriter, q *wire.Msg) { q.Id++; says("192.0.2.66")(w, q) }, "192.0.2.2"},
		"an answer to another name":  {func(w wire.ResponseWriter, q *wire.Msg) { q.Question[0].Name = "evil."; says("192.0.2.66")(w, q) }, "192.0.2.2"},
		"an answer to another type":  {func(w wire.ResponseWriter, q *wire.Msg) { q.Question[0].Qtype = wire.TypeTXT; says("192.0.2.66")(w, q) }, "192.0.2.2"},
		"the question":               {func(w wire.ResponseWriter, q *wire.Msg) { w.WriteMsg(q) }, "192.0.2.2"},
		"rubbish":                    {func(w wire.ResponseWriter, q *wire.Msg) { w.Write([]byte("rubbish")) }, "192.0.2.2"},
		"rubbish and then an answer": {func(w wire.ResponseWriter, q *wire.Msg) { w.Write([]byte("rubbish")); says("192.0.2.1")(w, q) }, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := resolve(t, "127.0.0.1", 0, tc.first)
			second := resolve(t, "127.0.0.2", first.address.Port(), says("192.0.2.2"))
			r := start(t, Options{Timeout: 4 * time.Second}, first.address, second.address)
			r.SetTable(nil)
			m := r.ask("udp", query("example.org.", wire.TypeA))
			if got := texts(m.Answer); len(got) != 1 || !strings.HasSuffix(got[0], " A "+tc.want) {
				t.Errorf("answer %q, want %s", got, tc.want)
			}
		})
	}
}

func TestAServerThatFailedIsAskedLast(t *testing.T) {
	first := resolve(t, "127.0.0.1", 0, says("192.0.2.1"))
	first.nothingUDP.Store(true)
	second := resolve(t, "127.0.0.2", first.address.Port(), says("192.0.2.2"))
	r := start(t, Options{Timeout: time.Second}, first.address, second.address)
	r.SetTable(nil)
	r.ask("udp", query("a.org.", wire.TypeA))
	before := first.asked.Load()
	r.ask("udp", query("b.org.", wire.TypeA))
	if got := first.asked.Load(); before != 1 || got != 1 {
		t.Errorf("the one that says nothing was asked %d times, then %d, want 1 and no more", before, got)
	}
}

func TestNobodyAnswersIsServfail(t *testing.T) {
	var log lines
	up := resolve(t, "127.0.0.1", 0, func(wire.ResponseWriter, *wire.Msg) {})
	registry := stats.New()
	r := start(t, Options{Timeout: time.Second, Stats: registry.Scope("outrider").Scope("dns"), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, up.address)
	r.SetTable(nil)
	if m := r.ask("udp", query("example.org.", wire.TypeA)); m.Rcode != wire.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	if got := up.asked.Load(); got != rounds {
		t.Errorf("it was asked %d times, want %d", got, rounds)
	}
	var text bytes.Buffer
	if err := registry.Text(&text, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"outrider.dns.requests_total: 1\n", "outrider.dns.upstream_requests_total: 1\n", "outrider.dns.upstream_failures_total: 2\n", "outrider.dns.server_failures_total: 1\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	if got := log.String(); !strings.Contains(got, "DNS server gave no answer") || !strings.Contains(got, "name=example.org.") {
		t.Errorf("log:\n%s", got)
	}
}

func TestWithoutServersItIsServfail(t *testing.T) {
	r := start(t, Options{})
	r.SetTable(nil)
	if m := r.ask("udp", query("example.org.", wire.TypeA)); m.Rcode != wire.RcodeServerFailure {
		t.Errorf("%v", m)
	}
}

func soa(ttl, minimum uint32) wire.RR {
	return &wire.SOA{Hdr: wire.RR_Header{Name: "org.", Rrtype: wire.TypeSOA, Class: wire.ClassINET, Ttl: ttl}, Ns: "a.", Mbox: "b.", Minttl: minimum}
}

func TestAbsenceIsRememberedAsRFC2308Says(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(wire.ResponseWriter, *wire.Msg)
		kept   bool
	}{
		"NXDOMAIN with SOA":         {code(wire.RcodeNameError, soa(60, 60)), true},
		"no data with SOA":          {code(wire.RcodeSuccess, soa(60, 60)), true},
		"NXDOMAIN without SOA":      {code(wire.RcodeNameError), false},
		"no data without SOA":       {code(wire.RcodeSuccess), false},
		"NXDOMAIN with minimum 0":   {code(wire.RcodeNameError, soa(60, 0)), false},
		"NXDOMAIN with SOA's TTL 0": {code(wire.RcodeNameError, soa(0, 60)), false},
		"SERVFAIL with SOA":         {code(wire.RcodeServerFailure, soa(60, 60)), false},
		"an address":                {says("192.0.2.1"), false},
		"an address and an SOA": {func(w wire.ResponseWriter, q *wire.Msg) {
			m := (&wire.Msg{}).SetReply(q)
			m.Answer = []wire.RR{&wire.A{Hdr: header(q.Question[0].Name, wire.TypeA), A: net.IPv4(192, 0, 2, 1)}}
			m.Ns = []wire.RR{soa(60, 60)}
			w.WriteMsg(m)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := resolve(t, "127.0.0.1", 0, tc.answer)
			r := start(t, Options{}, up.address)
			r.SetTable(nil)
			first := r.ask("udp", query("a.org.", wire.TypeA))
			once := up.asked.Load()
			second := r.ask("udp", query("A.org.", wire.TypeA))
			if kept := up.asked.Load() == once; kept != tc.kept {
				t.Fatalf("kept %t, want %t", kept, tc.kept)
			}
			if second.Rcode != first.Rcode || second.Question[0].Name != "A.org." {
				t.Errorf("first %v, second %v", first, second)
			}
			if tc.kept && (len(second.Ns) != 1 || second.Ns[0].Header().Ttl > 30) {
				t.Errorf("the SOA that was kept: %v, want a TTL of at most 30", second.Ns)
			}
			r.ask("udp", query("a.org.", wire.TypeAAAA))
			if up.asked.Load() == once {
				t.Error("another type is taken for the same")
			}
		})
	}
}

func TestALookupSaysWhereTheAnswerComesFrom(t *testing.T) {
	up := resolve(t, "127.0.0.1", 0, code(wire.RcodeNameError, soa(60, 60)))
	r := start(t, Options{}, up.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1"), external("*.wild.com", "10.0.0.2")))
	r.ask("udp", query("none.org.", wire.TypeA))
	for name, want := range map[string]string{
		"Cart":                              `cart. is answered from the table: cart.shop.svc.cluster.local (registry "Kubernetes") has [10.0.0.1]; found as cart.;`,
		"a.wild.com.shop.svc.cluster.local": `[10.0.0.2]; without the search domain it is a.wild.com.; other types`,
		"none.org":                          `none.org. is not in the table: the servers are asked, [` + up.address.String() + `]; remembered as absent: A NXDOMAIN`,
		"example.org":                       `example.org. is not in the table: the servers are asked, [` + up.address.String() + `]`,
	} {
		if got := r.Lookup(name).String(); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := r.Lookup("none.org").From; got != "negative cache" {
		t.Errorf("from %q", got)
	}
}

func TestSameQuestionsAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		release, answer := make(chan struct{}), query("example.org.", wire.TypeA)
		var asked, shared atomic.Int64
		for range 50 {
			go func() {
				got, others, err := f.do(t.Context(), key{name: "example.org."}, func(context.Context) (*wire.Msg, error) {
					asked.Add(1)
					<-release
					return answer, nil
				})
				if err != nil || got != answer {
					t.Errorf("%v, %v", got, err)
				}
				if others {
					shared.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if asked.Load() != 1 || shared.Load() != 49 || len(f.all) != 0 {
			t.Errorf("asked %d times and shared %d times, want 1 and 49; %d are left", asked.Load(), shared.Load(), len(f.all))
		}
	})
}

func TestWhoWaitsAsksItselfWhenTheFirstHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		gone, leave := context.WithCancel(t.Context())
		go f.do(gone, key{}, func(ctx context.Context) (*wire.Msg, error) { <-ctx.Done(); return nil, ctx.Err() })
		synctest.Wait()
		answer := query("example.org.", wire.TypeA)
		go func() {
			got, shared, err := f.do(t.Context(), key{}, func(context.Context) (*wire.Msg, error) { return answer, nil })
			if got != answer || shared || err != nil {
				t.Errorf("%v, shared %t, %v", got, shared, err)
			}
		}()
		synctest.Wait()
		leave()
		synctest.Wait()
	})
}

func TestAbsenceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNegatives()
		m := (&wire.Msg{}).SetRcode(query("a.", wire.TypeA), wire.RcodeNameError)
		m.Ns = []wire.RR{soa(3600, 10)}
		n.put(key{name: "a."}, m)
		time.Sleep(4 * time.Second)
		if got := n.get(key{name: "a."}); got == nil || got.Ns[0].Header().Ttl != 6 {
			t.Errorf("after 4 of 10 seconds: %v, want a TTL of 6", got)
		}
		time.Sleep(6 * time.Second)
		if got := n.get(key{name: "a."}); got != nil || len(n.all) != 0 {
			t.Errorf("after 10 seconds: %v", got)
		}
		m.Ns = []wire.RR{soa(3600, 3600)}
		for i := range maxNegatives + 100 {
			n.put(key{name: fmt.Sprint(i)}, m)
		}
		if len(n.all) != maxNegatives {
			t.Errorf("%d are kept, want %d", len(n.all), maxNegatives)
		}
		time.Sleep(maxNegativeLife)
		if got := n.of("1"); len(got) != 0 {
			t.Errorf("after the cap: %v", got)
		}
	})
}

func TestItIsNeverItsOwnServer(t *testing.T) {
	up := resolve(t, "127.0.0.1", 0, says("192.0.2.1"))
	r := startWith(t, Options{}, func(s *Server) { s.own[up.address] = true }, up.address)
	r.SetTable(nil)
	if _, err := r.askOne(context.Background(), &question{msg: query("a.", wire.TypeA)}, up.address, false); err == nil || up.asked.Load() != 0 {
		t.Errorf("asked %d times: %v", up.asked.Load(), err)
	}
}

func TestAQuestionOfOurOwnThatComesBackIsNotForwarded(t *testing.T) {
	scope := stats.New().Root()
	// A resolver that redirection replaces by us: what is sent to it comes from
	// our own socket.
	r := startWith(t, Options{Stats: scope, Timeout: time.Second}, func(s *Server) {
		s.conf.current.Store(&resolvConf{servers: s.Addresses()})
		clear(s.own)
	})
	r.SetTable(nil)
	if m := r.ask("udp", query("a.org.", wire.TypeA)); m.Rcode != wire.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	if got := scope.Counter("loops_total").Value(); got == 0 || got > rounds {
		t.Errorf("%d loops seen, want one for each round", got)
	}
}

// told is an origin that a test knows.
type told netip.AddrPort

func (o told) find(client) (netip.AddrPort, bool) {
	return netip.AddrPort(o), netip.AddrPort(o).IsValid()
}

func TestTheClientsOwnResolverIsKept(t *testing.T) {
	usual := resolve(t, "127.0.0.1", 0, says("192.0.2.1"))
	own := resolve(t, "127.0.0.3", usual.address.Port(), says("192.0.2.3"))
	r := start(t, Options{}, usual.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1")))
	for name, tc := range map[string]struct {
		to, kept netip.AddrPort
		want     string
	}{
		"another resolver":   {own.address, own.address, "192.0.2.3"},
		"one of resolv.conf": {usual.address, netip.AddrPort{}, "192.0.2.1"},
		"not known":          {netip.AddrPort{}, netip.AddrPort{}, "192.0.2.1"},
		"ourselves":          {r.Addresses()[0], netip.AddrPort{}, "192.0.2.1"},
	} {
		r.origin = told(tc.to)
		if _, kept := r.serversFor(client{}); kept != tc.kept {
			t.Errorf("%s: %s is kept, want %s", name, kept, tc.kept)
		}
		q, _ := read(packed(t, query("example.org.", wire.TypeA)))
		m := r.forward(context.Background(), q, client{})
		if got := texts(m.Answer); len(got) != 1 || !strings.HasSuffix(got[0], tc.want) {
			t.Errorf("%s: %q, want %s", name, got, tc.want)
		}
	}
}

func packed(t testing.TB, m *wire.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestResolvConfIsReadAgain(t *testing.T) {
	one := resolve(t, "127.0.0.1", 0, func(w wire.ResponseWriter, q *wire.Msg) {
		if q.Question[0].Name == "new.org." {
			code(wire.RcodeNameError, soa(60, 60))(w, q)
			return
		}
		says("192.0.2.1")(w, q)
	})
	two := resolve(t, "127.0.0.2", one.address.Port(), says("192.0.2.2"))
	r := start(t, Options{}, one.address)
	r.SetTable(tableOf(t, external("www.example.com", "10.1.0.1")))
	again := func() { r.Server.conf.due.Store(0) }
	answer := func(name string) string {
		m := r.ask("udp", query(name, wire.TypeA))
		return strings.Join(texts(m.Answer), ", ")
	}
	if got := answer("a.org."); !strings.HasSuffix(got, "192.0.2.1") {
		t.Fatalf("before: %q", got)
	}
	if got := answer("new.org."); got != "" {
		t.Errorf("a name that the first server does not know: %q", got)
	}
	writeConf(t, r.conf, "example.net", two.address)
	again()
	if got := answer("a.org."); !strings.HasSuffix(got, "192.0.2.2") {
		t.Errorf("after: %q", got)
	}
	if got := answer("new.org."); !strings.HasSuffix(got, "192.0.2.2") {
		t.Errorf("a name that only the first server did not know: %q", got)
	}
	if got := answer("www.example.com.example.net."); !strings.HasPrefix(got, "www.example.com.example.net. CNAME www.example.com.") {
		t.Errorf("the new search domain: %q", got)
	}
	if err := os.Remove(r.conf); err != nil {
		t.Fatal(err)
	}
	again()
	if got := answer("a.org."); !strings.HasSuffix(got, "192.0.2.2") {
		t.Errorf("without the file: %q", got)
	}
}
