package hello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
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
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
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
			if h.Legacy != tls.VersionTLS12 || cfg.MaxVersion == 0 && !slices.Contains(h.Versions, tls.VersionTLS13) {
				t.Errorf("%q: versions %x %x", cfg.ServerName, h.Legacy, h.Versions)
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
		"\x16\x03\x01\x00\x00":                 ErrIncomplete, // an empty record
		"\x16\x03\x01\x00\x00\x17":             ErrMalformed,
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

func TestManyEmptyRecordsAreRefused(t *testing.T) {
	empty := []byte("\x16\x03\x01\x00\x00")
	record := capture(t, configs()[0])
	if _, err := Parse(append(bytes.Repeat(empty, maxEmpty), record...)); err != nil {
		t.Errorf("%d empty records: %v", maxEmpty, err)
	}
	var sparse []byte
	for part := range slices.Chunk(split(record, 10), recordHeader+10) {
		sparse = append(append(sparse, empty...), part...)
	}
	if _, err := Parse(sparse); err != nil {
		t.Errorf("%d empty records, but not in a row: %v", len(sparse)/20, err)
	}
	if _, err := Parse(append(bytes.Repeat(empty, maxEmpty+1), record...)); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d empty records: %v, want %v", maxEmpty+1, err, ErrMalformed)
	}
}

// build is a hello in one record, by hand; nil leaves an extension out.
type build struct {
	legacy                          uint16
	session, suites, comp           []byte
	sni, alpn, versions, more, tail []byte
}

func (x build) record() []byte {
	if x.legacy == 0 {
		x.legacy = tls.VersionTLS12
	}
	if x.suites == nil {
		x.suites = []byte{0x13, 0x01}
	}
	if x.comp == nil {
		x.comp = []byte{0}
	}
	var ext []byte
	for kind, data := range map[uint16][]byte{extServerName: x.sni, extALPN: x.alpn, extVersions: x.versions} {
		if data != nil {
			ext = vector(binary.BigEndian.AppendUint16(ext, kind), 2, data)
		}
	}
	ext = append(ext, x.more...)
	body := append(binary.BigEndian.AppendUint16(nil, x.legacy), make([]byte, 32)...)
	body = vector(vector(vector(body, 1, x.session), 2, x.suites), 1, x.comp)
	if len(ext) > 0 {
		body = vector(body, 2, ext)
	}
	body = append(body, x.tail...)
	message := vector([]byte{typeClientHello, 0}, 2, body)
	return vector([]byte{typeHandshake, 3, 1}, 2, message)
}

// vector appends data with its length before it, in width bytes.
func vector(out []byte, width int, data []byte) []byte {
	if width == 2 {
		out = append(out, byte(len(data)>>8))
	}
	return append(append(out, byte(len(data))), data...)
}

func name(s string) []byte { return vector(nil, 2, vector([]byte{hostName}, 2, []byte(s))) }

// The cases were tried on Envoy 1.40 too.
func TestOddHellosAreReadAsEnvoyReadsThem(t *testing.T) {
	for _, c := range []struct {
		name  string
		hello build
		want  *Hello // nil: malformed
	}{
		{"no extensions", build{}, &Hello{Legacy: 0x0303}},
		{"SSL 3", build{legacy: 0x0300, sni: name("a")}, &Hello{Legacy: 0x0300, ServerName: "a"}},
		{"upper case", build{sni: name("A.Example.COM")}, &Hello{Legacy: 0x0303, ServerName: "a.example.com"}},
		{"trailing dot", build{sni: name("a.")}, &Hello{Legacy: 0x0303, ServerName: "a."}},
		{"not UTF-8", build{sni: name("A\xff\xc3B")}, &Hello{Legacy: 0x0303, ServerName: "a\xff\xc3b"}},
		{"beyond ASCII", build{sni: name("\u0130\u212A")}, &Hello{Legacy: 0x0303, ServerName: "\u0130\u212A"}},
		{"longest name", build{sni: name(strings.Repeat("a", 255))}, &Hello{Legacy: 0x0303, ServerName: strings.Repeat("a", 255)}},
		{"name too long", build{sni: name(strings.Repeat("a", 256))}, nil},
		{"empty name", build{sni: name("")}, nil},
		{"zero byte in name", build{sni: name("a\x00b")}, nil},
		{"empty list of names", build{sni: []byte{0, 0}}, nil},
		{"empty server_name", build{sni: []byte{}}, nil},
		{"another kind of name", build{sni: []byte("\x00\x04\x01\x00\x01x")}, nil},
		{"two names", build{sni: []byte("\x00\x08\x00\x00\x01x\x00\x00\x01y")}, nil},
		{"bytes after the names", build{sni: append(name("a"), 0)}, nil},
		{"protocols", build{alpn: []byte("\x00\x09\x02h2\x05istio")}, &Hello{Legacy: 0x0303, ALPN: []string{"h2", "istio"}}},
		{"empty protocol", build{alpn: []byte("\x00\x04\x02h2\x00")}, &Hello{Legacy: 0x0303}},
		{"no protocols", build{alpn: []byte("\x00\x00")}, &Hello{Legacy: 0x0303}},
		{"protocols that overrun", build{alpn: []byte("\x00\x03\x09h2")}, &Hello{Legacy: 0x0303}},
		{"protocols of no shape", build{alpn: []byte("zzz")}, &Hello{Legacy: 0x0303}},
		{"versions", build{versions: []byte("\x04\x03\x04\x03\x03")}, &Hello{Legacy: 0x0303, Versions: []uint16{0x0304, 0x0303}}},
		{"no versions", build{versions: []byte{0}}, &Hello{Legacy: 0x0303}},
		{"an extension twice", build{more: []byte("\xaa\xaa\x00\x00\xbb\xbb\x00\x00\xaa\xaa\x00\x00")}, nil},
		{"an extension that does not end", build{more: []byte("\xaa\xaa\x00\x01")}, nil},
		{"session too long", build{session: make([]byte, 33)}, nil},
		{"no cipher suites", build{suites: []byte{}}, nil},
		{"half a cipher suite", build{suites: []byte{1}}, nil},
		{"no compression", build{comp: []byte{}}, nil},
		{"other compression", build{comp: []byte{1}}, &Hello{Legacy: 0x0303}},
		{"bytes after the extensions", build{sni: name("a"), tail: []byte{0}}, nil},
	} {
		for _, n := range []int{maxRecord, 5} {
			got, err := Parse(split(c.hello.record(), n))
			if c.want == nil && !errors.Is(err, ErrMalformed) || c.want != nil && (err != nil || !reflect.DeepEqual(got, c.want)) {
				t.Errorf("%s, records of %d: got %+v, %v; want %+v", c.name, n, got, err, c.want)
			}
		}
	}
}

// A stream byte by byte is the worst case; with Need, each byte is looked at a
// bounded number of times.
func TestNeedBoundsTheWorkOfAStreamByteByByte(t *testing.T) {
	for _, n := range []int{maxRecord, 1000} {
		record := split(build{more: vector([]byte{0, 21}, 2, make([]byte, 15000))}.record(), n)
		looks, work := 0, 0
		for need := 1; ; {
			looks++
			work += need
			if _, err := Parse(record[:need]); err == nil {
				break
			}
			need = Need(record[:need])
		}
		if looks > 50+2*len(record)/n || work > 20*len(record) {
			t.Errorf("records of %d: %d looks at %d bytes for a hello of %d", n, looks, work, len(record))
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
		f.Add(split(record, 1))
	}
	f.Add(build{sni: name("a\xffB"), alpn: []byte("\x00\x04\x02h2\x00"), versions: []byte{0}}.record())
	f.Add([]byte("\x16\x03\x01\x00\x00\x16\x03\x01\x00\x01\x01"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if !errors.Is(err, ErrIncomplete) {
			h2, err2 := Parse(append(slices.Clone(b), "and more"...))
			if (err == nil) != (err2 == nil) || err == nil && !reflect.DeepEqual(h, h2) {
				t.Fatalf("with more bytes: %+v %v, before: %+v %v", h2, err2, h, err)
			}
		}
		if need := Need(b); need <= len(b) {
			t.Fatalf("Need(%d bytes) = %d", len(b), need)
		}
		if need := Need(b); errors.Is(err, ErrIncomplete) && need > len(b)+1 {
			more := append(slices.Clone(b), make([]byte, need-1-len(b))...)
			if _, err := Parse(more); err == nil {
				t.Fatalf("Need(%d bytes) = %d, yet %d bytes will do", len(b), need, len(more))
			}
		}
		if name, alpn, ok := stdlib(b); ok && err == nil {
			if h.ServerName != lower([]byte(name)) || !slices.Equal(h.ALPN, alpn) {
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
