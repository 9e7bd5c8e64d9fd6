package listener

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func captured(tb testing.TB) []byte {
	tb.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		tls.Client(client, &tls.Config{ServerName: "Orders.Shop", NextProtos: []string{"istio-peer-exchange", "istio"}, InsecureSkipVerify: true}).Handshake()
	}()
	b := make([]byte, maxPeek)
	n, err := io.ReadAtLeast(server, b, 5)
	for err == nil && n < 5+int(binary.BigEndian.Uint16(b[3:])) {
		var more int
		more, err = server.Read(b[n:])
		n += more
	}
	if err != nil || n < 1460 {
		tb.Fatalf("a hello of %d bytes: %v", n, err)
	}
	return b[:n]
}

func records(b []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(b[5:], n) {
		out = append(binary.BigEndian.AppendUint16(append(out, b[:3]...), uint16(len(part))), part...)
	}
	return out
}

func wantTLS(t *testing.T, info *flow.Info, err error) {
	t.Helper()
	if err != nil || info.TransportProtocol != "tls" || info.SNI != "orders.shop" || !slices.Equal(info.ALPNs, []string{"istio-peer-exchange", "istio"}) {
		t.Fatalf("got %q %q %q %v, want the hello", info.TransportProtocol, info.SNI, info.ALPNs, err)
	}
}

func TestTLSIsFoundWithTheHelloCutAnywhere(t *testing.T) {
	hello := captured(t)
	for at := 1; at < len(hello); at += 3 {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
		client, server := pair(t)
		send(t, client, hello[:at])
		info, done := r.run(t.Context(), server)
		r.waits(t, 1)
		send(t, client, hello[at:])
		wantTLS(t, info, <-done)
		client.Close()
		server.Close()
	}
}

func TestTLSIsFoundByteByByteAndInRecordsOfAnySize(t *testing.T) {
	for _, n := range []int{1, 2, 100, 1 << 14} {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
		client, server := pair(t)
		info, done := r.run(t.Context(), server)
		for _, b := range records(captured(t), n) {
			send(t, client, []byte{b})
		}
		wantTLS(t, info, <-done)
		r.wantCounts(t, "tls_inspector.alpn_found tls_inspector.sni_found tls_inspector.tls_found")
	}
}

func TestNothingOfTheHelloIsConsumed(t *testing.T) {
	hello := captured(t)
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter, httpFilter)
	client, server := pair(t)
	send(t, client, append(slices.Clone(hello), "early data"...))
	info := newInfo(server)
	wantTLS(t, info, r.Run(t.Context(), server, info))
	client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != string(hello)+"early data" {
		t.Errorf("%d bytes and %v are left, want all %d", len(got), err, len(hello)+10)
	}
}

func TestPlaintextGoesOnWithItsReason(t *testing.T) {
	for text, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                   "error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST",
		"CONNECT a:1 HTTP/1.1\r\n":             "error:1000009b:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST",
		"\x00\x01":                             "error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
		"\x16\x03\x01\x00\x04\x01\x00\x00\x00": "error:10000083:SSL routines:OPENSSL_internal:CLIENTHELLO_PARSE_FAILED",
	} {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
		client, server := pair(t)
		send(t, client, []byte(text))
		info := newInfo(server)
		if err := r.Run(t.Context(), server, info); err != nil || info.TransportProtocol != "raw_buffer" {
			t.Errorf("%q: %v, transport %q", text, err, info.TransportProtocol)
		}
		meta := info.DynamicMetadata["envoy.filters.listener.tls_inspector"].GetFields()["failure_reason"].GetStringValue()
		if info.DownstreamFailure != "TLS_error|"+want+":TLS_error_end" || meta != "ClientHelloNotDetected" {
			t.Errorf("%q: failure %q and metadata %q, want %q", text, info.DownstreamFailure, meta, want)
		}
		r.wantCounts(t, "tls_inspector.tls_not_found")
	}
}

func big(tb testing.TB, n int) []byte {
	tb.Helper()
	b := captured(tb)
	pad := n - len(b) - 4
	b = append(binary.BigEndian.AppendUint16(append(b, 0, 21), uint16(pad)), make([]byte, pad)...)
	at := 5 + 4 + 2 + 32
	at += 1 + int(b[at])                                       // session
	at += 2 + int(binary.BigEndian.Uint16(b[at:]))             // suites
	at += 1 + int(b[at])                                       // compressions
	binary.BigEndian.PutUint16(b[at:], uint16(n-at-2))         // extensions
	binary.BigEndian.PutUint16(b[7:], uint16(n-9))             // message
	binary.BigEndian.PutUint16(b[3:], uint16(min(n-5, 1<<14))) // record
	return b
}

func TestHellosUpToTheLimitAreRead(t *testing.T) {
	for _, c := range []struct {
		size, limit int
		reason      Reason
		counts      string
	}{
		{16384, 0, "", "tls_inspector.alpn_found tls_inspector.sni_found tls_inspector.tls_found"},
		{16385, 0, HelloTooLarge, "tls_inspector.client_hello_too_large"},
		{5000, 5000, "", "tls_inspector.alpn_found tls_inspector.sni_found tls_inspector.tls_found"},
		{5001, 5000, HelloTooLarge, "tls_inspector.client_hello_too_large"},
	} {
		f := &config.ListenerFilter{Name: "tls", TLSInspector: &config.TLSInspector{MaxClientHello: c.limit}}
		r := newRig(t, config.Listener{FiltersTimeout: forever}, f)
		client, server := pair(t)
		info, done := r.run(t.Context(), server)
		send(t, client, big(t, c.size))
		err := <-done
		if reasonOf(err) != c.reason || (err == nil) != (info.TransportProtocol == "tls") {
			t.Errorf("hello of %d, limit %d: %v, transport %q", c.size, c.limit, err, info.TransportProtocol)
		}
		r.wantCounts(t, c.counts)
	}
	// Of one that claims to be too large it is known at once.
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	send(t, client, big(t, 16385)[:100])
	info := newInfo(server)
	if err := r.Run(t.Context(), server, info); reasonOf(err) != HelloTooLarge {
		t.Errorf("a hello that claims 16385 bytes: %v", err)
	}
}

func TestPlaintextLargerThanTheLimitIsNotTooLarge(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	send(t, client, make([]byte, 3*maxPeek))
	if err := r.Run(t.Context(), server, newInfo(server)); err != nil {
		t.Error(err)
	}
	r.wantCounts(t, "tls_inspector.tls_not_found")
}

func TestClientsOfNoTLSVersionAreClosed(t *testing.T) {
	hello := captured(t)
	hello[9], hello[10] = 3, 0
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	send(t, client, hello)
	if err := r.Run(t.Context(), server, newInfo(server)); reasonOf(err) != HelloInvalid {
		t.Errorf("SSL 3: %v, want a refusal", err)
	}
	r.wantCounts(t, "tls_inspector.sni_found tls_inspector.tls_not_found")
}

func TestPlaintextIsClosedIfToldSo(t *testing.T) {
	f := &config.ListenerFilter{Name: "tls", TLSInspector: &config.TLSInspector{CloseOnParseError: true}}
	r := newRig(t, config.Listener{FiltersTimeout: forever}, f)
	client, server := pair(t)
	send(t, client, []byte("hello"))
	if err := r.Run(t.Context(), server, newInfo(server)); reasonOf(err) != HelloInvalid {
		t.Errorf("plaintext: %v, want a refusal", err)
	}
}
