package tlsmux

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keyedPeer is the other end of a layer13, by hand.
type keyedPeer struct {
	net.Conn
	t       testing.TB
	in, out half
}

func testHalf(tb testing.TB, suite uint16, secret byte) half {
	tb.Helper()
	h, err := newHalf(suite, bytes.Repeat([]byte{secret}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// layerOver is a connection whose handshake has agreed on keys that the test
// knows.
func layerOver(tb testing.TB, c net.Conn, side Side, suite uint16) *Conn {
	r := newRecords(c)
	r.over = true
	return &Conn{records: r, side: side, layer: &layer13{records: r, side: side, in: testHalf(tb, suite, 1), out: testHalf(tb, suite, 2)}}
}

func keyed(t *testing.T, side Side, suite uint16) (*Conn, *keyedPeer) {
	t.Helper()
	near, far := tcpPair(t)
	return layerOver(t, near, side, suite), &keyedPeer{Conn: far, t: t, in: testHalf(t, suite, 2), out: testHalf(t, suite, 1)}
}

// say sends a record.
func (p *keyedPeer) say(typ byte, data []byte) {
	p.t.Helper()
	if _, err := p.Write(p.out.seal(nil, typ, data)); err != nil {
		p.t.Fatal(err)
	}
}

// hear is the next record.
func (p *keyedPeer) hear() (typ byte, data []byte) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(5 * time.Second))
	rec := make([]byte, recordHeaderSize)
	if _, err := io.ReadFull(p.Conn, rec); err != nil {
		p.t.Fatal(err)
	}
	rec = append(rec, make([]byte, int(rec[3])<<8|int(rec[4]))...)
	if _, err := io.ReadFull(p.Conn, rec[recordHeaderSize:]); err != nil {
		p.t.Fatal(err)
	}
	typ, data, alert := p.in.open(rec, nil)
	if alert != 0 {
		p.t.Fatalf("a record that cannot be opened: %d", alert)
	}
	return typ, data
}

func TestWhatCryptoTLSIsLeftWithAfterAHandshake(t *testing.T) {
	check := func(version uint16, tickets bool) func(*testing.T) {
		return func(t *testing.T) {
			m := newMesh(t)
			near, far := tcpPair(t)
			sc, cc := m.serverConfig(), m.clientConfig()
			sc.MaxVersion, sc.DisableTickets = version, !tickets
			done := make(chan *Conn, 1)
			go func() {
				s, err := NewServer(sc, noFeeds()).Handshake(context.Background(), far)
				if err != nil {
					t.Error(err)
				}
				done <- s
			}()
			client, err := NewClient(cc, noFeeds()).Handshake(context.Background(), near, ClientOptions{})
			if err != nil {
				t.Fatal(err)
			}
			server := <-done
			for side, c := range map[string]*Conn{"server": server, "client": client} {
				if _, own := c.layer.(*layer13); own != (version == tls.VersionTLS13) {
					t.Errorf("the %s has a %T", side, c.layer)
				}
			}
			server.Write([]byte("x"))
			if n, err := client.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			if l, own := client.layer.(*layer13); own && l.tickets != nil {
				t.Error("the client holds crypto/tls after data has come")
			}
		}
	}
	for name, version := range versions {
		t.Run(name, check(version, true))
		t.Run(name+" without tickets", check(version, false))
	}
}

func TestWhatAPeerMayNotSendEndsTheConnectionWithAnAlert(t *testing.T) {
	sealed := func(typ byte, data ...byte) func(*keyedPeer) {
		return func(p *keyedPeer) { p.say(typ, data) }
	}
	raw := func(b ...byte) func(*keyedPeer) { return func(p *keyedPeer) { p.Write(b) } }
	keyUpdate := []byte{messageKeyUpdate, 0, 0, 1, 0}
	ticket := []byte{messageNewSessionTicket, 0, 0, 1, 9}
	cases := map[string]struct {
		side Side
		do   func(*keyedPeer)
		want uint8
	}{
		"a plaintext alert":         {Upstream, raw(21, 3, 3, 0, 2, 2, 40), alertUnexpectedMessage},
		"a change of cipher spec":   {Upstream, raw(20, 3, 3, 0, 1, 1), alertUnexpectedMessage},
		"HTTP":                      {Downstream, raw([]byte("GET / HTTP/1.1\r\n")...), alertUnexpectedMessage},
		"another version":           {Upstream, raw(23, 3, 1, 0, 20, 0), alertProtocolVersion},
		"less than a tag":           {Upstream, raw(23, 3, 3, 0, 1, 0), alertBadRecordMAC},
		"nothing at all":            {Upstream, raw(23, 3, 3, 0, 0), alertBadRecordMAC},
		"a forgery":                 {Upstream, raw(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)...), alertBadRecordMAC},
		"a record twice":            {Upstream, func(p *keyedPeer) { r := p.out.seal(nil, 23, []byte("x")); p.Write(r); p.Write(r) }, alertBadRecordMAC},
		"a long record":             {Upstream, raw(23, 3, 3, 0x41, 1), alertRecordOverflow},
		"too much in a record":      {Upstream, sealed(23, make([]byte, maxPlaintext+1)...), alertRecordOverflow},
		"padding alone":             {Upstream, sealed(0, make([]byte, 100)...), alertUnexpectedMessage},
		"another type":              {Upstream, sealed(24, 1), alertUnexpectedMessage},
		"an alert of one byte":      {Upstream, sealed(21, 1), alertUnexpectedMessage},
		"an empty handshake record": {Upstream, sealed(22), alertUnexpectedMessage},
		"data within a message": {Upstream, func(p *keyedPeer) {
			p.say(22, ticket[:3])
			p.say(23, []byte("x"))
		}, alertUnexpectedMessage},
		"a ticket for a server":        {Downstream, sealed(22, ticket...), alertUnexpectedMessage},
		"a ClientHello":                {Downstream, sealed(22, 1, 0, 0, 1, 0), alertUnexpectedMessage},
		"a key update, and more":       {Upstream, sealed(22, append(slices.Clone(keyUpdate), keyUpdate...)...), alertUnexpectedMessage},
		"a key update of two bytes":    {Upstream, sealed(22, messageKeyUpdate, 0, 0, 2, 0, 0), alertDecodeError},
		"a key update of another kind": {Upstream, sealed(22, messageKeyUpdate, 0, 0, 1, 2), alertIllegalParameter},
		"a huge message":               {Upstream, sealed(22, messageNewSessionTicket, 1, 0, 0), alertDecodeError},
		"seventeen empty records": {Upstream, func(p *keyedPeer) {
			for range maxUseless + 1 {
				p.say(23, nil)
			}
		}, alertUnexpectedMessage},
	}
	for name, c := range cases {
		for _, wait := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", name, wait), func(t *testing.T) {
				ours, peer := keyed(t, c.side, tls.TLS_AES_128_GCM_SHA256)
				c.do(peer)
				ours.SetReadDeadline(time.Now().Add(5 * time.Second))
				if wait {
					ours.WaitReadable()
				}
				_, err := io.ReadAll(ours)
				var alert tls.AlertError
				if !errors.As(err, &alert) || uint8(alert) != c.want {
					t.Errorf("the error is %v, want alert %d", err, c.want)
				}
				if typ, data := peer.hear(); typ != typeAlert || !bytes.Equal(data, []byte{2, c.want}) {
					t.Errorf("the peer hears %d %v, want alert %d", typ, data, c.want)
				}
				if n, err := ours.Write([]byte("x")); n != 0 || err == nil {
					t.Errorf("then %d bytes are written, %v", n, err)
				}
				if ours.records.buffered() {
					t.Error("a buffer is held")
				}
			})
		}
	}
}

func TestRecordsThatAreNoDataAreReadOver(t *testing.T) {
	ours, peer := keyed(t, Upstream, tls.TLS_AES_128_GCM_SHA256)
	long := append([]byte{messageNewSessionTicket, 0, 0x50, 0}, make([]byte, 0x5000)...) // two records
	for range 3 {
		peer.say(23, nil)
		peer.say(22, long[:maxPlaintext])
		peer.say(22, append(long[maxPlaintext:], messageNewSessionTicket, 0))
		peer.say(22, []byte{0, 1, 7})
		peer.say(21, []byte{1, alertUserCanceled})
		peer.say(23, []byte("data"))
		if got := make([]byte, 10); true {
			if n, err := ours.Read(got); string(got[:n]) != "data" || err != nil {
				t.Fatal(got[:n], err)
			}
		}
	}
	inner := append([]byte("padded\x17"), make([]byte, 300)...)
	peer.say(0, inner[:len(inner)-1]) // the type is the last zero
	if got := make([]byte, 10); true {
		if n, err := ours.Read(got); string(got[:n]) != "padded" || err != nil {
			t.Fatal(got[:n], err)
		}
	}
	peer.say(21, []byte{1, alertCloseNotify})
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

func TestAnAlertOfThePeerIsARefusal(t *testing.T) {
	ours, peer := keyed(t, Upstream, tls.TLS_AES_128_GCM_SHA256)
	peer.say(21, []byte{2, 48})
	_, err := ours.Read(make([]byte, 1))
	var refused *HandshakeError
	if !errors.As(err, &refused) || refused.Reason != ReasonAlert || refused.Alert != 48 || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("got %v", err)
	}
}

func TestKeysAreRenewed(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256} {
		ours, peer := keyed(t, Downstream, suite)
		for round := range 3 {
			peer.say(22, []byte{messageKeyUpdate, 0, 0, 1, 1})
			if err := peer.out.update(); err != nil {
				t.Fatal(err)
			}
			peer.say(23, []byte("to us"))
			got := make([]byte, 10)
			if n, err := ours.Read(got); string(got[:n]) != "to us" || err != nil {
				t.Fatal(round, got[:n], err)
			}
			// the answer comes before what we send next, and once
			ours.Write([]byte("from us"))
			if typ, data := peer.hear(); typ != typeHandshake || !bytes.Equal(data, []byte{messageKeyUpdate, 0, 0, 1, 0}) {
				t.Fatal(round, typ, data)
			}
			if err := peer.in.update(); err != nil {
				t.Fatal(err)
			}
			ours.Write([]byte("more"))
			for _, want := range []string{"from us", "more"} {
				if typ, data := peer.hear(); typ != typeApplicationData || string(data) != want {
					t.Fatal(round, typ, data)
				}
			}
		}
	}
}

func TestAKeyIsNotUsedForTooManyRecords(t *testing.T) {
	ours, peer := keyed(t, Downstream, tls.TLS_AES_128_GCM_SHA256)
	l := ours.layer.(*layer13)
	l.out.seq, peer.in.seq = rekeyAfter-1, rekeyAfter-1
	for range 2 {
		if _, err := ours.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if typ, _ := peer.hear(); typ != typeApplicationData {
		t.Fatal("the last record of a key is of type", typ)
	}
	if typ, data := peer.hear(); typ != typeHandshake || !bytes.Equal(data, []byte{messageKeyUpdate, 0, 0, 1, 0}) {
		t.Fatal(typ, data)
	}
	if err := peer.in.update(); err != nil {
		t.Fatal(err)
	}
	if typ, data := peer.hear(); typ != typeApplicationData || string(data) != "x" {
		t.Fatal(typ, data)
	}
}

func TestNothingFollowsACloseNotify(t *testing.T) {
	ours, peer := keyed(t, Upstream, tls.TLS_AES_128_GCM_SHA256)
	if err := errors.Join(ours.CloseWrite(), ours.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Write([]byte("x")); n != 0 || err == nil {
		t.Error(n, err)
	}
	ours.Close()
	if typ, data := peer.hear(); typ != typeAlert || data[1] != alertCloseNotify {
		t.Error(typ, data)
	}
	if rest, err := io.ReadAll(peer.Conn); len(rest) > 0 || err != nil {
		t.Error(rest, err)
	}
}

// The key schedule of RFC 8448, section 3: the server's application traffic
// keys.
func TestKeysAreThoseOfTheRFC(t *testing.T) {
	h, err := newHalf(tls.TLS_AES_128_GCM_SHA256, unhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"))
	if err != nil {
		t.Fatal(err)
	}
	// the first record that the server sends with them, and what is in it
	rec := unhex("1703030043" +
		"2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d")
	h.seq = 1 // after the ticket
	if !bytes.Equal(h.iv[:], unhex("cf782b88dd83549aadf1e984")) {
		t.Errorf("the iv is %x", h.iv)
	}
	want := make([]byte, 50)
	for i := range want {
		want[i] = byte(i)
	}
	if typ, data, alert := h.open(rec, nil); typ != typeApplicationData || alert != 0 || !bytes.Equal(data, want) {
		t.Errorf("got %d %x, alert %d", typ, data, alert)
	}
}

// FuzzLayer13: whatever the peer seals, in whatever pieces it comes, the data is
// read in its order up to the first mistake, and no buffer is held at the end.
func FuzzLayer13(f *testing.F) {
	f.Add([]byte{23, 1, 'x', 22, 5, 24, 0, 0, 1, 0, 23, 2, 'a', 'b', 21, 2, 1, 0}, []byte{3, 200, 1}, 7)
	f.Add([]byte{22, 3, 4, 0, 0, 22, 2, 1, 9, 23, 0, 24, 1, 1}, []byte{}, 1)
	f.Fuzz(func(t *testing.T, said, sizes []byte, room int) {
		if room < 1 || room > 1<<16 {
			return
		}
		out := testHalf(t, tls.TLS_AES_128_GCM_SHA256, 1)
		var wire, want []byte
		for len(said) >= 2 {
			n := min(int(said[1]), len(said)-2)
			data := said[2 : 2+n]
			said[0] = max(said[0], 1) // 0 is padding, and the type is in the data
			wire = out.seal(wire, said[0], data)
			if said[0] == typeApplicationData {
				want = append(want, data...)
			}
			if said[0] == typeHandshake && bytes.Equal(data, []byte{messageKeyUpdate, 0, 0, 1, 0}) {
				if err := out.update(); err != nil {
					t.Fatal(err)
				}
			}
			said = said[2+n:]
		}
		wire = append(wire, said...) // and a piece of a record
		c := layerOver(t, &script{data: wire, sizes: sizes}, Upstream, tls.TLS_AES_128_GCM_SHA256)
		var got []byte
		for p := make([]byte, room); ; {
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
			if n == 0 {
				t.Fatal("nothing is read, without an error")
			}
		}
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("read %q of %q", got, want)
		}
		if c.records.buf != nil {
			t.Fatal("a buffer is held")
		}
	})
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// A reader whose buffer is what four records hold gets them at once, and
// nothing is written behind the byte that it lends.
func TestFourWholeRecordsAreOneRead(t *testing.T) {
	for _, spare := range []int{0, 1, 100} {
		ours, peer := keyed(t, Upstream, tls.TLS_AES_128_GCM_SHA256)
		data := random(4*maxPlaintext, 9)
		var wire []byte
		for b := data; len(b) > 0; b = b[maxPlaintext:] {
			wire = peer.out.seal(wire, typeApplicationData, b[:maxPlaintext])
		}
		go peer.Write(wire)
		buf := bytes.Repeat([]byte{0xee}, len(data)+200)
		for got, reads := 0, 0; got < len(data); reads++ {
			if reads == 0 {
				for deadline := time.Now().Add(5 * time.Second); pending(t, ours) < len(wire); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("not all has come")
					}
				}
			}
			p := buf[got : len(data) : len(data)+spare]
			n, err := ours.ReadLazy(lent{p})
			if err != nil || n > len(p) {
				t.Fatal(n, err)
			}
			if got += n; spare > 0 && got != len(data) {
				t.Errorf("%d to spare: the first read brings %d bytes", spare, n)
			}
		}
		if !bytes.Equal(buf[:len(data)], data) {
			t.Errorf("%d to spare: the data differs", spare)
		}
		if behind := buf[len(data)+min(spare, 1):]; bytes.Count(behind, []byte{0xee}) != len(behind) {
			t.Errorf("%d to spare: more is written over", spare)
		}
	}
}

// lent is room as it is.
type lent struct{ p []byte }

func (l lent) Take() []byte { return l.p }
func (l lent) Drop()        {}

// pending is how many bytes wait in the socket.
func pending(t *testing.T, c *Conn) int {
	t.Helper()
	var n int
	if err := c.records.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
		t.Fatal(err)
	}
	return n
}
