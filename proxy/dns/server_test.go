package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
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
