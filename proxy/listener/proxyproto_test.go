package listener

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"outrider/proxy/config"
)

const tcp4Line = "PROXY TCP4 1.2.3.4 5.6.7.8 1111 2222\r\n"

// v2 is a binary header; body nil is the addresses of tcp4Line.
func v2(command, family byte, body []byte, tlvs string) string {
	if body == nil {
		body = []byte{1, 2, 3, 4, 5, 6, 7, 8, 1111 >> 8, 1111 & 0xff, 2222 >> 8, 2222 & 0xff}
	}
	body = append(bytes.Clone(body), tlvs...)
	b := binary.BigEndian.AppendUint16(append([]byte(proxyV2Prefix), command, family), uint16(len(body)))
	return string(append(b, body...))
}

func mapped(last byte) []byte {
	a := netip.AddrFrom16(netip.AddrFrom4([4]byte{1, 2, 3, last}).As16()).As16()
	return a[:]
}

// The answers are Envoy 1.40's, but where the name says otherwise.
func TestProxyHeadersAreReadAsEnvoyReadsThem(t *testing.T) {
	const same, refused = "same", "refused"
	got4 := "1.2.3.4:1111 5.6.7.8:2222"
	for _, c := range []struct{ name, header, want string }{
		{"v1", tcp4Line, got4},
		{"v1 IPv6", "PROXY TCP6 2001::1 2001::2 1 2\r\n", "[2001::1]:1 [2001::2]:2"},
		{"v1 mapped, which becomes IPv4", "PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2\r\n", "1.2.3.4:1 5.6.7.8:2"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", same},
		{"v1 unknown and more", "PROXY UNKNOWN a b c\r\n", same},
		{"v1 IPv4 as TCP6", "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", refused},
		{"v1 port 0", "PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", "1.2.3.4:0 5.6.7.8:0"},
		{"v1 leading zero", "PROXY TCP4 1.2.3.4 5.6.7.8 080 1\r\n", "1.2.3.4:80 5.6.7.8:1"},
		{"v1 port too large", "PROXY TCP4 1.2.3.4 5.6.7.8 65536 1\r\n", refused},
		{"v1 port with a sign", "PROXY TCP4 1.2.3.4 5.6.7.8 +1 1\r\n", refused},
		{"v1 two blanks", "PROXY TCP4  1.2.3.4 5.6.7.8 80 1\r\n", refused},
		{"v1 blank at the end", "PROXY TCP4 1.2.3.4 5.6.7.8 80 1 \r\n", "1.2.3.4:80 5.6.7.8:1"},
		{"v1 from nowhere", "PROXY TCP4 0.0.0.0 5.6.7.8 80 1\r\n", refused},
		{"v1 broadcast", "PROXY TCP4 255.255.255.255 5.6.7.8 80 1\r\n", refused},
		{"v1 multicast", "PROXY TCP4 1.2.3.4 224.0.0.1 80 1\r\n", refused},
		{"v1 zone, which Envoy takes", "PROXY TCP6 fe80::1%lo fe80::2 80 1\r\n", refused},
		{"v1 longest", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", same},
		{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 93) + "\r\n", refused},
		{"v1 nothing after it", "PROXY\r\n", refused},
		{"v1 another word", "PROXYx TCP4 1.2.3.4 5.6.7.8 80 1\r\n", refused},
		{"v1 UDP", "PROXY UDP4 1.2.3.4 5.6.7.8 80 1\r\n", refused},
		{"v2", v2(0x21, 0x11, nil, ""), got4},
		{"v2 datagram", v2(0x21, 0x12, nil, ""), got4},
		{"v2 unspecified", v2(0x21, 0x00, []byte{}, ""), refused},
		{"v2 unspecified protocol", v2(0x21, 0x10, nil, ""), refused},
		{"v2 unix", v2(0x21, 0x31, make([]byte, 216), ""), refused},
		{"v2 local", v2(0x20, 0, []byte{}, ""), same},
		{"v2 local with addresses", v2(0x20, 0x11, nil, ""), same},
		{"v2 local with junk", v2(0x20, 0, []byte("zz"), ""), same},
		{"v2 version 1", v2(0x11, 0x11, nil, ""), refused},
		{"v2 command 2", v2(0x22, 0x11, nil, ""), refused},
		{"v2 short", v2(0x21, 0x11, make([]byte, 11), ""), refused},
		{"v2 IPv6", v2(0x21, 0x21, append(bytes.Repeat([]byte{0xfd}, 32), 0, 1, 0, 2), ""), "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:1 [fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:2"},
		{"v2 mapped, which becomes IPv4", v2(0x21, 0x21, append(append(mapped(4), mapped(5)...), 0, 1, 0, 2), ""), "1.2.3.4:1 1.2.3.5:2"},
		{"v2 mapped from nowhere", v2(0x21, 0x21, append(append(mapped(4), make([]byte, 16)...), 0, 1, 0, 2), ""), refused},
		{"v2 TLV", v2(0x21, 0x11, nil, "\x02\x00\x03abc"), got4},
		{"v2 TLV too long", v2(0x21, 0x11, nil, "\x02\x00\x09abc"), refused},
		{"v2 TLV of a byte", v2(0x21, 0x11, nil, "\x02"), refused},
		{"v2 empty TLV", v2(0x21, 0x11, nil, "\x02\x00\x00"), got4},
		{"v2 16 KiB", v2(0x21, 0x11, nil, "\x02\x3f\xe1"+strings.Repeat("a", 0x3fe1)), got4},
		{"v2 more, which Envoy takes", v2(0x21, 0x11, nil, "\x02\x3f\xe2"+strings.Repeat("a", 0x3fe2)), refused},
		{"none", "GET / HTTP/1.1\r\n", refused},
		{"none, at once", "G", refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: forever}, proxyFilter)
			client, server := pair(t)
			info, done := r.run(t.Context(), server)
			send(t, client, []byte(c.header+"payload"))
			err := <-done
			got := info.Remote.String() + " " + info.Local.String()
			if got == info.DirectRemote.String()+" "+info.DirectLocal.String() && !info.LocalRestored {
				got = same
			}
			if err != nil {
				if got = refused; reasonOf(err) != ProxyHeader {
					t.Errorf("refused by %v", err)
				}
			} else {
				client.CloseWrite()
				if rest, _ := io.ReadAll(server); string(rest) != "payload" {
					t.Errorf("%q is left, want the payload", rest)
				}
			}
			if got != c.want {
				t.Errorf("got %s (%v), want %s", got, err, c.want)
			}
			version := map[bool]string{true: "v2", false: "v1"}[strings.HasPrefix(c.header, "\r")]
			switch {
			case c.want != refused:
				r.wantCounts(t, "proxy_proto.versions."+version+".found")
			case strings.HasPrefix(c.header, proxyV1Prefix) || strings.HasPrefix(c.header, "\r"):
				r.wantCounts(t, "downstream_cx_proxy_proto_error proxy_proto.versions."+version+".error")
			default:
				r.wantCounts(t, "downstream_cx_proxy_proto_error proxy_proto.not_found_disallowed")
			}
		})
	}
}

func TestAProxyHeaderMayBeCutAnywhereAndTLSFollowsIt(t *testing.T) {
	hello := string(captured(t))
	for _, header := range []string{tcp4Line, v2(0x21, 0x11, nil, "\x02\x00\x03abc")} {
		for at := 1; at <= len(header)+10; at++ {
			r := newRig(t, config.Listener{FiltersTimeout: forever}, proxyFilter, tlsFilter)
			client, server := pair(t)
			send(t, client, []byte(header + hello)[:at])
			info, done := r.run(t.Context(), server)
			r.waits(t, 1)
			send(t, client, []byte(header + hello)[at:])
			wantTLS(t, info, <-done)
			if info.Remote.String() != "1.2.3.4:1111" || info.Local.String() != "5.6.7.8:2222" || !info.LocalRestored {
				t.Fatalf("cut at %d: %s to %s", at, info.Remote, info.Local)
			}
			client.CloseWrite()
			if rest, _ := io.ReadAll(server); string(rest) != hello {
				t.Fatalf("cut at %d: %d bytes are left, want the hello of %d", at, len(rest), len(hello))
			}
			server.Close()
		}
	}
}

func TestTLVsBecomeMetadataByRule(t *testing.T) {
	f := &config.ListenerFilter{Name: "proxy", ProxyProtocol: &config.ProxyProtocol{TLVs: []config.TLVRule{
		{Type: 2, Namespace: "ns", Key: "authority"}, {Type: 0xe0, Namespace: "ns", Key: "own"}, {Type: 2, Namespace: "other", Key: "again"},
	}}}
	r := newRig(t, config.Listener{FiltersTimeout: forever}, f)
	client, server := pair(t)
	send(t, client, []byte(v2(0x21, 0x11, nil, "\x04\x00\x01x\x02\x00\x03abc\xe0\x00\x03a\xff\x00\x02\x00\x03not")))
	info := newInfo(server)
	if err := r.Run(t.Context(), server, info); err != nil {
		t.Fatal(err)
	}
	ns, other := info.DynamicMetadata["ns"].GetFields(), info.DynamicMetadata["other"].GetFields()
	if ns["authority"].GetStringValue() != "abc" || ns["own"].GetStringValue() != "a!\x00" || other["again"].GetStringValue() != "abc" || len(ns)+len(other) != 3 {
		t.Errorf("metadata %v", info.DynamicMetadata)
	}
}

func TestVersionsAndAbsenceAreAllowedByConfiguration(t *testing.T) {
	v1, second, none := tcp4Line, v2(0x21, 0x11, nil, ""), "hello, no header here"
	for _, c := range []struct {
		name   string
		cfg    config.ProxyProtocol
		sent   string
		ok     bool
		left   string
		counts string
	}{
		{"v1 disallowed", config.ProxyProtocol{DisallowV1: true}, v1, false, "", "proxy_proto.versions.v1.disallowed proxy_proto.versions.v1.found"},
		{"v2 beside it", config.ProxyProtocol{DisallowV1: true}, second, true, "", "proxy_proto.versions.v2.found"},
		{"v2 disallowed", config.ProxyProtocol{DisallowV2: true, StatPrefix: "p"}, second, false, "", "proxy_proto.p.versions.v2.disallowed proxy_proto.p.versions.v2.found"},
		{"none allowed", config.ProxyProtocol{AllowWithout: true}, none, true, none, "proxy_proto.not_found_allowed"},
		{"v1 disallowed is none", config.ProxyProtocol{AllowWithout: true, DisallowV1: true}, v1, true, v1, "proxy_proto.not_found_allowed"},
		{"v1 where none is allowed", config.ProxyProtocol{AllowWithout: true}, v1, true, "", "proxy_proto.versions.v1.found"},
	} {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, &config.ListenerFilter{Name: "proxy", ProxyProtocol: &c.cfg})
		client, server := pair(t)
		send(t, client, []byte(c.sent))
		client.CloseWrite()
		err := r.Run(t.Context(), server, newInfo(server))
		left, _ := io.ReadAll(server)
		if (err == nil) != c.ok || err != nil && reasonOf(err) != ProxyHeader || err == nil && string(left) != c.left {
			t.Errorf("%s: %v, %q is left", c.name, err, left)
		}
		r.wantCounts(t, c.counts)
	}
}

// Envoy goes on without the header then; but a client that is silent would
// choose its own source address so.
func TestATimeoutDoesNotSkipAProxyHeaderThatIsRequired(t *testing.T) {
	for _, allow := range []bool{false, true} {
		f := &config.ListenerFilter{Name: "proxy", ProxyProtocol: &config.ProxyProtocol{AllowWithout: allow}}
		r := newRig(t, config.Listener{FiltersTimeout: time.Millisecond, ContinueOnTimeout: true}, f)
		_, server := pair(t)
		_, done := r.run(t.Context(), server)
		if err := <-done; (err == nil) != allow || !allow && reasonOf(err) != Timeout {
			t.Errorf("allow_requests_without_proxy_protocol %v: %v", allow, err)
		}
	}
}

// scan is a header from the bytes of a stream; size is 0 while it is not
// whole.
func scan(b []byte) (h proxyHeader, size int, err error) {
	version, decided := proxyVersion(b)
	if !decided {
		return h, 0, nil
	}
	if version == 0 {
		return h, 0, errProxyNone
	}
	size, _, err = proxySize(version, b)
	if err != nil || size == 0 || size > len(b) {
		return h, 0, err
	}
	h, err = parseProxyHeader(version, b[:size])
	return h, size, err
}

var errProxyNone = io.ErrNoProgress

// FuzzProxyProtocol: no panic; once there is a result a longer stream has the
// same; and where go-proxyproto reads a header as well, it reads the same
// addresses and as many bytes.
func FuzzProxyProtocol(f *testing.F) {
	for _, h := range []*proxyproto.Header{
		proxyproto.HeaderProxyFromAddrs(1, addr("1.2.3.4:5"), addr("5.6.7.8:9")),
		proxyproto.HeaderProxyFromAddrs(2, addr("1.2.3.4:5"), addr("5.6.7.8:9")),
		proxyproto.HeaderProxyFromAddrs(2, addr("[fd00::1]:5"), addr("[fd00::2]:9")),
	} {
		b, err := h.Format()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("PROXY UNKNOWN\r\nGET /"))
	f.Add([]byte(v2(0x21, 0x11, nil, "\x02\x00\x03abc\x20\x00\x00")))
	f.Add([]byte(v2(0x20, 0, nil, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, err := scan(b)
		if size > len(b) {
			t.Fatalf("%d of %d bytes", size, len(b))
		}
		if err != nil || size > 0 {
			h2, size2, err2 := scan(append(bytes.Clone(b), "\r\nmore"...))
			if size != size2 || (err == nil) != (err2 == nil) || h.source != h2.source || h.destination != h2.destination {
				t.Fatalf("%+v %d %v, with more bytes %+v %d %v", h, size, err, h2, size2, err2)
			}
		}
		if err != nil || size == 0 {
			return
		}
		in := bytes.NewReader(b)
		buffered := bufio.NewReaderSize(in, len(b)+1)
		other, err := proxyproto.Read(buffered)
		if err != nil {
			return // it refuses leading zeros and long TLVs, for two
		}
		if used := len(b) - in.Len() - buffered.Buffered(); used != size {
			t.Errorf("%d bytes, go-proxyproto took %d", size, used)
		}
		src, dst, ok := other.TCPAddrs()
		if ok && !h.local && (unmap(src.AddrPort()) != unmap(h.source) || unmap(dst.AddrPort()) != unmap(h.destination)) {
			t.Errorf("%s to %s, go-proxyproto has %s to %s", h.source, h.destination, src, dst)
		}
		if h.local != (other.Command.IsLocal() || other.TransportProtocol.IsUnspec()) {
			t.Errorf("local %v, go-proxyproto has %+v", h.local, other)
		}
	})
}

func addr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func TestTLVsThatMayGoOnAreKept(t *testing.T) {
	const tlvs = "\xe1\x00\x03one\xe2\x00\x03two\xe1\x00\x05again"
	for name, c := range map[string]struct {
		pass   *config.TLVPass
		header string
		want   string
		had    bool
	}{
		"none":        {nil, v2(0x21, 0x11, nil, tlvs), "", true},
		"all":         {&config.TLVPass{All: true}, v2(0x21, 0x11, nil, tlvs), "one two again ", true},
		"of one type": {&config.TLVPass{Types: []byte{0xe2}}, v2(0x21, 0x11, nil, tlvs), "two ", true},
		"of LOCAL":    {&config.TLVPass{All: true}, v2(0x20, 0x11, nil, tlvs), "", false},
		"of v1":       {&config.TLVPass{All: true}, tcp4Line, "", true},
	} {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, &config.ListenerFilter{Name: "p", ProxyProtocol: &config.ProxyProtocol{Pass: c.pass}})
		client, server := pair(t)
		send(t, client, []byte(c.header))
		info, done := r.run(t.Context(), server)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, tlv := range info.TLVs {
			got += string(tlv.Value) + " "
		}
		if got != c.want || info.ProxyHeader != c.had {
			t.Errorf("%s: got %q, header %v; want %q, %v", name, got, info.ProxyHeader, c.want, c.had)
		}
	}
}
