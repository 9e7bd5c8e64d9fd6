package dns

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"outrider/proxy/stats"
)

func TestTableAndServersAnswerOverBothProtocols(t *testing.T) {
	up := resolve(t, "127.0.0.1", 0, says("192.0.2.1"))
	r := start(t, Options{}, up.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1")))
	for _, network := range []string{"udp", "tcp"} {
		m := r.ask(network, query("CaRt.shop.", wire.TypeA))
		if got, want := texts(m.Answer), []string{"CaRt.shop. A 10.0.0.1"}; !slices.Equal(got, want) || !m.Authoritative || !m.RecursionAvailable || m.Answer[0].Header().Ttl != 30 {
			t.Errorf("%s, table: %v", network, m)
		}
		m = r.ask(network, query("cart.shop.", wire.TypeAAAA))
		if m.Rcode != wire.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%s, the family that is not there: %v", network, m)
		}
		if up.asked.Load() != 0 {
			t.Errorf("%s: a server was asked for a name of the table", network)
		}
		m = r.ask(network, query("Example.org.", wire.TypeA))
		if got, want := texts(m.Answer), []string{"Example.org. A 192.0.2.1"}; !slices.Equal(got, want) || m.Authoritative || m.Answer[0].Header().Ttl != 77 {
			t.Errorf("%s, forwarded: %v", network, m)
		}
		if got := up.askedTCP.Swap(0); (got == 1) != (network == "tcp") {
			t.Errorf("%s: %d questions went over TCP", network, got)
		}
		up.asked.Store(0)
	}
}

func TestOtherTypesAndClassesAreForwarded(t *testing.T) {
	up := resolve(t, "127.0.0.1", 0, code(wire.RcodeSuccess))
	r := start(t, Options{}, up.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1")))
	for i, qtype := range []uint16{wire.TypeANY, wire.TypePTR, wire.TypeSRV, wire.TypeHTTPS, wire.TypeTXT} {
		r.ask("udp", query("cart.", qtype))
		if got := up.asked.Load(); got != int64(i+1) {
			t.Errorf("%s: %d questions were forwarded, want %d", wire.TypeToString[qtype], got, i+1)
		}
	}
	m := query("cart.", wire.TypeA)
	m.Question[0].Qclass = wire.ClassCHAOS
	if r.ask("udp", m); up.asked.Load() != 6 {
		t.Error("class CH is not forwarded")
	}
}

func TestBeforeTheFirstTable(t *testing.T) {
	up := resolve(t, "127.0.0.1", 0, says("192.0.2.1"))
	r := start(t, Options{}, up.address)
	if m := r.ask("udp", query("example.org.", wire.TypeA)); m.Rcode != wire.RcodeServerFailure || up.asked.Load() != 0 {
		t.Errorf("it is not refused: %v", m)
	}
	if a := r.Lookup("example.org"); a.From != "nowhere" {
		t.Errorf("lookup: %+v", a)
	}
	r.SetTable(nil)
	if m := r.ask("udp", query("example.org.", wire.TypeA)); len(m.Answer) != 1 {
		t.Errorf("after an empty table: %v", m)
	}
	r = start(t, Options{ForwardBeforeTable: true}, up.address)
	if m := r.ask("udp", query("example.org.", wire.TypeA)); len(m.Answer) != 1 {
		t.Errorf("with ForwardBeforeTable: %v", m)
	}
}

func TestEDNSIsBetweenNeighbours(t *testing.T) {
	var sent atomic.Pointer[wire.Msg]
	up := resolve(t, "127.0.0.1", 0, func(w wire.ResponseWriter, q *wire.Msg) {
		sent.Store(q)
		m := (&wire.Msg{}).SetReply(q)
		if q.IsEdns0() != nil {
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_EDE{InfoCode: 15}, &wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0102030405060708"}}
		}
		w.WriteMsg(m)
	})
	r := start(t, Options{}, up.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1")))
	if m := r.ask("udp", query("cart.", wire.TypeA)); m.IsEdns0() != nil {
		t.Errorf("OPT for a client without EDNS: %v", m)
	}
	q := query("cart.", wire.TypeA).SetEdns0(4096, true)
	if m := r.ask("udp", q); m.IsEdns0() == nil || !m.IsEdns0().Do() || m.IsEdns0().UDPSize() != ednsSize {
		t.Errorf("OPT of the table's answer: %v", m)
	}
	r.ask("udp", query("plain.org.", wire.TypeA))
	if sent.Load().IsEdns0() != nil {
		t.Error("EDNS is sent for a client without it")
	}
	q = query("edns.org.", wire.TypeA).SetEdns0(4096, true)
	q.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "aabbccddeeff0011"}}
	m := r.ask("udp", q)
	if o := sent.Load().IsEdns0(); o == nil || !o.Do() || o.UDPSize() != ednsSize || len(o.Option) != 0 {
		t.Errorf("OPT that was sent: %v", o)
	}
	if o := m.IsEdns0(); o == nil || len(o.Option) != 1 || o.Option[0].Option() != wire.EDNS0EDE {
		t.Errorf("OPT that came back: %v, want the reason and no cookie", o)
	}
	q = query("cart.", wire.TypeA).SetEdns0(4096, false)
	q.IsEdns0().SetVersion(1)
	if m := r.ask("udp", q); m.Rcode != wire.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", m)
	}
}

// manyAddresses is a service with n of them.
func manyAddresses(n int) Entry {
	e := service("many")
	for i := range n {
		e.Addresses = append(e.Addresses, netip.AddrFrom4([4]byte{10, 9, byte(i / 250), byte(i % 250)}))
	}
	return e
}

func TestAnAnswerFitsWhatTheClientTakes(t *testing.T) {
	r := start(t, Options{})
	r.SetTable(tableOf(t, manyAddresses(200))) // about 3.3 kB
	plain := r.ask("udp", query("many.", wire.TypeA))
	plain.Compress = true // as it was sent
	if !plain.Truncated || plain.Len() > 512 || len(plain.Answer) == 0 {
		t.Errorf("without EDNS: truncated %t, %d bytes, %d records", plain.Truncated, plain.Len(), len(plain.Answer))
	}
	for size, whole := range map[uint16]bool{100: false, 1232: false, 4096: true} {
		m := r.ask("udp", query("many.", wire.TypeA).SetEdns0(size, false))
		m.Compress = true
		if m.Truncated == whole || m.Len() > max(int(size), 512) || whole && len(m.Answer) != 200 {
			t.Errorf("EDNS %d: truncated %t, %d bytes, %d records", size, m.Truncated, m.Len(), len(m.Answer))
		}
	}
	if m := r.ask("tcp", query("many.", wire.TypeA)); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("TCP: truncated %t, %d records", m.Truncated, len(m.Answer))
	}
}

func TestATruncatedAnswerIsAskedForAgainOverTCP(t *testing.T) {
	large := func(w wire.ResponseWriter, q *wire.Msg) {
		m := (&wire.Msg{}).SetReply(q)
		for i := range 100 {
			m.Answer = append(m.Answer, &wire.A{Hdr: header(q.Question[0].Name, wire.TypeA), A: net.IPv4(192, 0, 2, byte(i))})
		}
		if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
			m.Truncate(512)
		}
		w.WriteMsg(m)
	}
	up := resolve(t, "127.0.0.1", 0, large)
	r := start(t, Options{}, up.address)
	r.SetTable(nil)
	m := r.ask("udp", query("large.org.", wire.TypeA).SetEdns0(4096, false))
	if m.Truncated || len(m.Answer) != 100 || up.askedTCP.Load() != 1 {
		t.Errorf("truncated %t, %d records, %d TCP questions", m.Truncated, len(m.Answer), up.askedTCP.Load())
	}
	if m := r.ask("udp", query("large.org.", wire.TypeA)); !m.Truncated {
		t.Error("a client that takes 512 bytes is not told that there is more")
	}
	if err := up.tcp.Shutdown(); err != nil {
		t.Fatal(err)
	}
	up.tcp.Listener.Close()
	if m := r.ask("udp", query("other.org.", wire.TypeA).SetEdns0(4096, false)); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("without TCP: truncated %t, %d records", m.Truncated, len(m.Answer))
	}
}

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
			r := start(t, Options{Timeout: time.Second}, first.address, second.address)
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
	r := start(t, Options{Timeout: 200 * time.Millisecond, Stats: registry.Scope("outrider").Scope("dns"), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, up.address)
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

func TestAFloodIsBoundedAndTheTableStillAnswers(t *testing.T) {
	release := make(chan struct{})
	up := resolve(t, "127.0.0.1", 0, func(w wire.ResponseWriter, q *wire.Msg) { <-release; says("192.0.2.1")(w, q) })
	scope := stats.New().Root()
	r := start(t, Options{MaxInFlight: 8, MaxConnections: 2, Stats: scope}, up.address)
	r.SetTable(tableOf(t, service("cart", "10.0.0.1")))
	c, err := net.Dial("udp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 100 {
		b, _ := query(fmt.Sprintf("n%d.org.", i), wire.TypeA).Pack()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if m := r.ask("udp", query("cart.", wire.TypeA)); len(m.Answer) != 1 { // it is read after them
		t.Errorf("%v", m)
	}
	if got := len(r.slots); got != 8 {
		t.Errorf("%d questions wait, want 8", got)
	}
	if got := scope.Counter("dropped_total").Value(); got != 92 {
		t.Errorf("%d dropped, want 92", got)
	}
	close(release)

	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	open[2].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := open[2].Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the third connection is not closed: %v", err)
	}
}

func TestPipelinedQuestionsDoNotWaitForEachOther(t *testing.T) {
	release := make(chan struct{})
	up := resolve(t, "127.0.0.1", 0, func(w wire.ResponseWriter, q *wire.Msg) {
		if q.Question[0].Name == "slow.org." {
			<-release
		}
		says("192.0.2.1")(w, q)
	})
	r := start(t, Options{}, up.address)
	r.SetTable(nil)
	raw, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	c := &wire.Conn{Conn: raw}
	defer c.Close()
	for _, name := range []string{"slow.org.", "fast.org."} {
		if err := c.WriteMsg(query(name, wire.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.(*net.TCPConn).CloseWrite(); err != nil { // the answers still come
		t.Fatal(err)
	}
	for _, want := range []string{"fast.org.", "slow.org."} {
		m, err := c.ReadMsg()
		if err != nil || m.Question[0].Name != want {
			t.Fatalf("%v, %v, want the answer for %s", m, err, want)
		}
		if want == "fast.org." {
			close(release)
		}
	}
}

func TestMalformedPackets(t *testing.T) {
	r := start(t, Options{})
	r.SetTable(nil)
	good, _ := query("cart.", wire.TypeA).Pack()
	flagged := func(at int, bits byte) []byte { b := slices.Clone(good); b[at] |= bits; return b }
	two, _ := (&wire.Msg{Question: []wire.Question{{Name: "a.", Qtype: 1, Qclass: 1}, {Name: "b.", Qtype: 1, Qclass: 1}}}).Pack()
	opts := query("a.", wire.TypeA).SetEdns0(1232, false)
	opts.Extra = append(opts.Extra, opts.Extra[0])
	twoOPT, _ := opts.Pack()
	transfer, _ := query("a.", wire.TypeAXFR).Pack()
	for name, tc := range map[string]struct {
		packet []byte
		want   int // -1: nothing
	}{
		"an answer":          {flagged(2, 0x80), -1},
		"half a header":      {good[:7], -1},
		"nothing":            {[]byte{}, -1},
		"half a question":    {good[:15], wire.RcodeFormatError},
		"no question":        {append(slices.Clone(good[:4]), make([]byte, 8)...), wire.RcodeFormatError},
		"two questions":      {two, wire.RcodeFormatError},
		"two OPT":            {twoOPT, wire.RcodeFormatError},
		"an update":          {flagged(2, wire.OpcodeUpdate<<3), wire.RcodeNotImplemented},
		"a transfer":         {transfer, wire.RcodeRefused},
		"a name in a circle": {append(slices.Clone(good[:12]), 0xC0, 12, 0, 1, 0, 1), wire.RcodeFormatError},
	} {
		t.Run(name, func(t *testing.T) {
			_, answer, drop := r.take(tc.packet, false)
			if tc.want < 0 {
				if !drop || answer != nil {
					t.Errorf("answered with %x", answer)
				}
				return
			}
			var m wire.Msg
			if err := m.Unpack(answer); drop || err != nil || m.Rcode != tc.want || m.Id != uint16(tc.packet[0])<<8|uint16(tc.packet[1]) || !m.Response {
				t.Errorf("drop %t, %v, answer %v, want %s", drop, err, m, wire.RcodeToString[tc.want])
			}
		})
	}
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

func TestAddressesToListenOn(t *testing.T) {
	for text, want := range map[string]string{
		"localhost:15053": "[127.0.0.1:15053 [::1]:15053]", "127.0.0.1:53": "[127.0.0.1:53]", "[::1]:53": "[[::1]:53]",
		"0.0.0.0:53": `address "0.0.0.0:53": it would answer everybody`, "[::]:53": "it would answer everybody",
		":53": `address ":53"`, "127.0.0.1": `address "127.0.0.1": it is host:port`, "localhost:x": `address "localhost:x"`,
	} {
		addrs, err := listenAddresses(text)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestAnAddressInUseIsAnErrorOfTheStart(t *testing.T) {
	r := start(t, Options{})
	_, err := New(Options{Listen: []string{r.address}, ResolvConf: r.conf})
	if err == nil || !strings.Contains(err.Error(), r.address) {
		t.Errorf("%v", err)
	}
	if _, err := New(Options{ResolvConf: "/nonexistent"}); err == nil {
		t.Error("without resolv.conf it starts")
	}
}
