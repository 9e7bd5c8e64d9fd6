package hello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// capture is the ClientHello that crypto/tls sends for cfg.
func capture(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		cfg.InsecureSkipVerify = true
		tls.Client(client, cfg).Handshake()
	}()
	header := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, header); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, recordLength(header))
	if _, err := io.ReadFull(server, body); err != nil {
		tb.Fatal(err)
	}
	return append(header, body...)
}

// split makes records of at most n bytes of payload from one record.
func split(record []byte, n int) []byte {
	var out []byte
	for payload := record[recordHeader:]; len(payload) > 0; {
		part := payload[:min(n, len(payload))]
		payload = payload[len(part):]
		out = append(out, record[0], record[1], record[2])
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func configs() []*tls.Config {
	return []*tls.Config{
		{ServerName: "outbound_.50051_.default_.uc.dev.svc.cluster.local", NextProtos: []string{"istio-peer-exchange", "istio", "h2"}},
		{ServerName: "A.Example.COM"},
		{NextProtos: []string{"istio"}, CurvePreferences: []tls.CurveID{tls.X25519}},
		{ServerName: "x", MaxVersion: tls.VersionTLS12},
		{},
	}
}

func TestParseReadsWhatCryptoTLSSends(t *testing.T) {
	for _, cfg := range configs() {
		record := capture(t, cfg)
		for _, n := range []int{1 << 14, 100, 7, 1} {
			h, err := Parse(split(record, n))
			if err != nil {
				t.Fatalf("%q in records of %d: %v", cfg.ServerName, n, err)
			}
			if h.ServerName != strings.ToLower(cfg.ServerName) || !slices.Equal(h.ALPN, cfg.NextProtos) {
				t.Errorf("got %q %v, want %q %v", h.ServerName, h.ALPN, cfg.ServerName, cfg.NextProtos)
			}
		}
	}
}

func TestEveryPrefixOfAHelloIsIncompleteAndNeedsMore(t *testing.T) {
	for _, n := range []int{1 << 14, 100, 3} {
		record := split(capture(t, configs()[0]), n)
		for i := range record {
			if _, err := Parse(record[:i]); !errors.Is(err, ErrIncomplete) {
				t.Fatalf("%d of %d bytes: %v, want %v", i, len(record), err, ErrIncomplete)
			}
			if need := Need(record[:i]); need <= i || need > len(record) {
				t.Fatalf("Need of %d bytes is %d, and all are %d", i, need, len(record))
			}
		}
	}
}

func TestWhatIsNotTLSIsKnownAtItsFirstWrongByte(t *testing.T) {
	for text, want := range map[string]error{
		"GET / HTTP/1.1\r\n":                   ErrNotTLS,
		"\x16":                                 ErrIncomplete,
		"\x16\x02":                             ErrNotTLS,
		"\x16\x03\x09":                         ErrIncomplete,
		"\x16\x03\x01\x00\x00":                 ErrNotTLS,
		"\x16\x03\x01\xff\xff":                 ErrNotTLS,
		"\x16\x03\x01\x00\x10\x02":             ErrNotTLS,
		"\x80\x2e\x01\x03\x01":                 ErrNotTLS, // SSLv2
		"":                                     ErrIncomplete,
		"\x16\x03\x01\x00\x02\x01\x00GARBAGE!": ErrMalformed, // the next record is none
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, want) {
			t.Errorf("Parse(%q) = %v, want %v", text, err, want)
		}
	}
}

func TestBrokenHellosAreMalformed(t *testing.T) {
	record := capture(t, configs()[0])
	i := bytes.Index(record, []byte("outbound_"))
	for name, change := range map[string]func([]byte){
		"name longer than its list": func(b []byte) { b[i-1]++ },
		"empty name":                func(b []byte) { b[i-1], b[i-2] = 0, 0 },
		"zero byte in name":         func(b []byte) { b[i] = 0 },
		"session ID too long":       func(b []byte) { b[recordHeader+handshakeHeader+34] = 255 },
	} {
		bad := bytes.Clone(record)
		change(bad)
		if _, err := Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
		}
	}
}

func TestIncompleteDoesNotAllocate(t *testing.T) {
	record := split(capture(t, configs()[0]), 100)
	part := record[:len(record)-1]
	if n := testing.AllocsPerRun(100, func() { Parse(part) }); n != 0 {
		t.Errorf("Parse of an incomplete hello allocates %v times", n)
	}
}

// stdlib is what crypto/tls sees in b; ok is false if it refuses.
func stdlib(b []byte) (name string, alpn []string, ok bool) {
	conn := &replay{Reader: bytes.NewReader(b)}
	tls.Server(conn, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, alpn, ok = h.ServerName, h.SupportedProtos, true
		return nil, errors.New("seen")
	}}).HandshakeContext(context.Background())
	return name, alpn, ok
}

type replay struct {
	*bytes.Reader
	net.Conn
}

func (r *replay) Read(p []byte) (int, error)  { return r.Reader.Read(p) }
func (r *replay) Write(p []byte) (int, error) { return len(p), nil }
func (r *replay) Close() error                { return nil }

// FuzzClientHello: Parse does not panic; once it has an answer, a longer
// stream has the same; and what crypto/tls reads as well, it reads alike
// (crypto/tls takes record versions that BoringSSL does not).
func FuzzClientHello(f *testing.F) {
	for _, cfg := range configs() {
		record := capture(f, cfg)
		f.Add(record)
		f.Add(split(record, 50))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if !errors.Is(err, ErrIncomplete) {
			h2, err2 := Parse(append(slices.Clone(b), "and more"...))
			if (err == nil) != (err2 == nil) || err == nil && (h.ServerName != h2.ServerName || !slices.Equal(h.ALPN, h2.ALPN)) {
				t.Fatalf("with more bytes: %+v %v, before: %+v %v", h2, err2, h, err)
			}
		}
		if need := Need(b); need <= len(b) {
			t.Fatalf("Need(%d bytes) = %d", len(b), need)
		}
		if name, alpn, ok := stdlib(b); ok && err == nil {
			if h.ServerName != strings.ToLower(name) || !slices.Equal(h.ALPN, alpn) {
				t.Fatalf("got %q %q, crypto/tls has %q %q", h.ServerName, h.ALPN, name, alpn)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	record := capture(b, configs()[0])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(record); err != nil {
			b.Fatal(err)
		}
	}
}
