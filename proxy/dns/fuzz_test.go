package dns

import (
	"os"
	"path/filepath"
	"testing"

	wire "github.com/miekg/dns"
	"google.golang.org/protobuf/types/known/anypb"
)

// FuzzTake gives packets to everything that reads a client's bytes, and as a
// server's answer: whatever they are, what is said has the question's ID, is an
// answer, fits, and can be read.
func FuzzTake(f *testing.F) {
	f.Add(packed(f, query("cart.shop.", wire.TypeA)), false)
	f.Add(packed(f, query("a.wild.com.shop.svc.cluster.local.", wire.TypeAAAA).SetEdns0(4096, true)), true)
	f.Add(packed(f, query("example.org.", wire.TypeANY).SetEdns0(1, false)), false)
	big := (&wire.Msg{}).SetReply(query("many.", wire.TypeA))
	for range 100 {
		big.Answer = append(big.Answer, &wire.A{Hdr: header("many.", wire.TypeA), A: []byte{10, 0, 0, 1}})
	}
	f.Add(packed(f, big), false)
	conf := filepath.Join(f.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("search shop.svc.cluster.local\n"), 0o644); err != nil {
		f.Fatal(err)
	}
	s := newServer(Options{ResolvConf: conf})
	if err := s.conf.open(); err != nil {
		f.Fatal(err)
	}
	s.SetTable(tableOf(f, service("cart", "10.0.0.1", "fd00::1"), external("*.wild.com", "fd00::2"), manyAddresses(600)))
	ask, _ := read(packed(f, query("example.org.", wire.TypeA).SetEdns0(1232, true)))
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		q, answer, drop := s.take(packet, tcp)
		if answer != nil && !drop {
			check(t, answer, packet, q, tcp)
		}
		if q != nil && answer == nil && !drop {
			b, err := q.pack(q.reply(wire.RcodeServerFailure), tcp)
			if err != nil {
				t.Fatalf("a question that was understood is not answered: %v", err)
			}
			check(t, b, packet, q, tcp)
			if _, err := q.upstream().Pack(); err != nil {
				t.Fatalf("a question that was understood cannot be asked: %v", err)
			}
		}
		var r wire.Msg
		if r.Unpack(packet) != nil {
			return
		}
		negativeLife(&r)
		answered(ask.upstream(), &r)
		if b, err := ask.pack(r.Copy(), tcp); err != nil {
			t.Fatalf("an answer that was understood is not handed on: %v", err)
		} else if !tcp && len(b) > 1232 {
			t.Fatalf("%d bytes for a client that takes 1232", len(b))
		}
	})
}

func check(t *testing.T, answer, packet []byte, q *question, tcp bool) {
	t.Helper()
	var m wire.Msg
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	if !m.Response || m.Id != uint16(packet[0])<<8|uint16(packet[1]) {
		t.Fatalf("no answer to %x: %v", packet, &m)
	}
	if q != nil && len(answer) > q.size(tcp) {
		t.Fatalf("%d bytes for a client that takes %d", len(answer), q.size(tcp))
	}
}

// FuzzParseTable reads any bytes as a table, and asks what came of it.
func FuzzParseTable(f *testing.F) {
	f.Add(encode(service("cart", "10.0.0.1"), external("*.wild.com", "fd00::2")))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ParseTable(&anypb.Any{TypeUrl: TypeURL, Value: b})
		if err != nil {
			return
		}
		n := newNames(table, newPlace("shop", "shop.svc.cluster.local"), []string{"shop.svc.cluster.local"})
		for _, e := range table.Entries() {
			f, ok := n.find(fqdn(e.Host))
			if !ok || len(f.v4)+len(f.v6) == 0 {
				t.Fatalf("%q is in the table and is not found", e.Host)
			}
		}
	})
}
