package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// received connects to a server that reads PROXY headers, and returns what it
// read.
func received(t *testing.T, socket config.TransportSocket, info *flow.Info, change func(*config.Endpoint)) (*proxyproto.Header, string, error) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type result struct {
		header *proxyproto.Header
		text   string
	}
	got := make(chan result, 1)
	go func() {
		c, err := (&proxyproto.Listener{Listener: ln}).Accept()
		if err != nil {
			close(got)
			return
		}
		defer c.Close()
		text, _ := io.ReadAll(c)
		got <- result{c.(*proxyproto.Conn).ProxyHeader(), string(text)}
	}()
	ep := &config.Endpoint{Address: config.Address{AddrPort: netip.MustParseAddrPort(ln.Addr().String())}, Weight: 1}
	if change != nil {
		change(ep)
	}
	format := func(text string, omitEmpty bool) (func(*flow.Info) string, error) {
		if text == "bad" {
			return nil, errors.New("bad format")
		}
		return func(info *flow.Info) string { return text + " " + info.SNI }, nil
	}
	s := setOf(t, Options{Format: format}, cfgOf("a", func(c *config.Cluster) {
		c.TransportSocket = socket
		c.Assignment = &config.Assignment{Localities: []*config.LocalityEndpoints{{Endpoints: []*config.Endpoint{ep}}}}
	}))
	conn, err := s.Get("a").Connect(t.Context(), Request{Info: info})
	if err != nil {
		ln.Close()
		<-got
		return nil, "", err
	}
	io.WriteString(conn, "hello")
	conn.Close()
	r := <-got
	return r.header, r.text, nil
}

func proxySocket(cfg config.UpstreamProxyProtocol) config.TransportSocket {
	return config.TransportSocket{Name: "p", ProxyProtocol: &cfg}
}

func client(remote, local string) *flow.Info {
	return &flow.Info{
		Remote: flow.Addr{AddrPort: netip.MustParseAddrPort(remote)},
		Local:  flow.Addr{AddrPort: netip.MustParseAddrPort(local)},
	}
}

func TestProxyHeaderHasTheClientsAddresses(t *testing.T) {
	for name, c := range map[string]struct{ remote, local, wantRemote, wantLocal string }{
		"IPv4":                 {"192.0.2.7:1234", "10.0.0.1:80", "192.0.2.7:1234", "10.0.0.1:80"},
		"IPv6":                 {"[2001:db8::7]:1234", "[2001:db8::1]:80", "[2001:db8::7]:1234", "[2001:db8::1]:80"},
		"IPv6 with a zone":     {"[fe80::7%eth0]:1234", "[fe80::1%eth0]:80", "[fe80::7]:1234", "[fe80::1]:80"},
		"IPv4 mapped to IPv6":  {"[::ffff:192.0.2.7]:1234", "10.0.0.1:80", "192.0.2.7:1234", "10.0.0.1:80"},
		"a family at each end": {"[2001:db8::7]:1234", "10.0.0.1:80", "[2001:db8::7]:1234", "10.0.0.1:80"},
	} {
		for _, v2 := range []bool{false, true} {
			h, text, err := received(t, proxySocket(config.UpstreamProxyProtocol{V2: v2}), client(c.remote, c.local), nil)
			if err != nil || h == nil {
				t.Errorf("%s, v2 %v: got %v, %v", name, v2, h, err)
				continue
			}
			if h.SourceAddr.String() != c.wantRemote || h.DestinationAddr.String() != c.wantLocal || text != "hello" || h.Version != byte(map[bool]int{false: 1, true: 2}[v2]) {
				t.Errorf("%s, v2 %v: version %d from %s to %s, then %q", name, v2, h.Version, h.SourceAddr, h.DestinationAddr, text)
			}
		}
	}
}

func TestProxyHeaderOfOurOwnConnections(t *testing.T) {
	unix := &flow.Info{Remote: flow.Addr{Path: "@client"}, Local: flow.Addr{Path: "/socket"}}
	for name, c := range map[string]struct {
		v2      bool
		info    *flow.Info
		command proxyproto.ProtocolVersionAndCommand
	}{
		"LOCAL for a health check":   {true, nil, proxyproto.LOCAL},
		"LOCAL for a unix socket":    {true, unix, proxyproto.LOCAL},
		"the connection's own in v1": {false, nil, proxyproto.PROXY},
		"UNKNOWN for a unix socket":  {false, unix, proxyproto.PROXY},
	} {
		h, text, err := received(t, proxySocket(config.UpstreamProxyProtocol{V2: c.v2}), c.info, nil)
		if err != nil || text != "hello" {
			t.Errorf("%s: got %q, %v", name, text, err)
			continue
		}
		if c.v2 && h.Command != c.command {
			t.Errorf("%s: command %v", name, h.Command)
		}
	}
}

// tlvsOf are the header's TLVs as type and text.
func tlvsOf(t *testing.T, h *proxyproto.Header) map[byte]string {
	t.Helper()
	list, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[byte]string{}
	for _, tlv := range list {
		if _, twice := out[byte(tlv.Type)]; twice {
			out[byte(tlv.Type)] += ", "
		}
		out[byte(tlv.Type)] += string(tlv.Value)
	}
	return out
}

func TestTLVsGoByTheirPrecedence(t *testing.T) {
	added := []config.TLV{{Type: 0xE1, Value: []byte("socket")}, {Type: 0xE2, Value: []byte("socket")}, {Type: 0xE3, Format: "format"}}
	host := func(e *config.Endpoint) { e.TLVs = []config.TLV{{Type: 0xE1, Value: []byte("host")}} }
	came := []flow.TLV{{Type: 0xE2, Value: []byte("client")}, {Type: 0xE4, Value: []byte("client")}, {Type: 0xE6, Value: []byte("client")}}
	for name, c := range map[string]struct {
		pass *config.TLVPass
		want map[byte]string
	}{
		"none of the client's": {nil, map[byte]string{0xE1: "host", 0xE2: "socket", 0xE3: "format web"}},
		"all of the client's":  {&config.TLVPass{All: true}, map[byte]string{0xE1: "host", 0xE2: "socket", 0xE3: "format web", 0xE4: "client", 0xE6: "client"}},
		"some of the client's": {&config.TLVPass{Types: []byte{0xE2, 0xE6}}, map[byte]string{0xE1: "host", 0xE2: "socket", 0xE3: "format web", 0xE6: "client"}},
	} {
		info := client("192.0.2.7:1", "10.0.0.1:80")
		info.SNI, info.TLVs = "web", came
		h, _, err := received(t, proxySocket(config.UpstreamProxyProtocol{V2: true, Added: added, Pass: c.pass}), info, host)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, tlvsOf(t, h)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestPeerIsToldAsItWasVerified(t *testing.T) {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "cart"}, SignatureAlgorithm: x509.ECDSAWithSHA256, PublicKeyAlgorithm: x509.ECDSA}
	id := spiffeid.RequireFromString("spiffe://prod/ns/web/sa/cart")
	state := func(change func(*tlsmux.State)) *tlsmux.State {
		s := &tlsmux.State{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, Peer: []*x509.Certificate{leaf}, PeerID: id, PeerVerified: true}
		change(s)
		return s
	}
	for name, c := range map[string]struct {
		state                    *tlsmux.State
		ssl, cert, sess, trusted bool
		id, name                 string
	}{
		"verified":                    {state(func(*tlsmux.State) {}), true, true, true, true, id.String(), "cart"},
		"resumed":                     {state(func(s *tlsmux.State) { s.Resumed = true }), true, false, true, true, id.String(), "cart"},
		"shown, and not verified":     {state(func(s *tlsmux.State) { s.PeerVerified = false }), true, true, true, false, "", ""},
		"TLS without a certificate":   {state(func(s *tlsmux.State) { s.Peer, s.PeerID, s.PeerVerified = nil, spiffeid.ID{}, false }), true, false, false, false, "", ""},
		"a certificate without an ID": {state(func(s *tlsmux.State) { s.PeerID = spiffeid.ID{} }), true, true, true, true, "", "cart"},
		"plaintext":                   {nil, false, false, false, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			info := client("192.0.2.7:1", "10.0.0.1:80")
			info.Downstream = c.state
			// What the client says of itself must not be believed.
			info.TLVs = []flow.TLV{{Type: config.TLVTypeSPIFFE, Value: []byte("spiffe://prod/admin")}, {Type: config.TLVTypeSSL, Value: make([]byte, 5)}}
			h, _, err := received(t, proxySocket(config.UpstreamProxyProtocol{V2: true, Peer: true, Pass: &config.TLVPass{All: true}}), info, nil)
			if err != nil {
				t.Fatal(err)
			}
			tlvs, err := h.TLVs()
			if err != nil {
				t.Fatal(err)
			}
			ssl, found := tlvparse.FindSSL(tlvs)
			if found != c.ssl || found && (ssl.ClientSSL() != c.ssl || ssl.ClientCertConn() != c.cert || ssl.ClientCertSess() != c.sess || ssl.Verified() != c.trusted) {
				t.Errorf("found %v: %+v", found, ssl)
			}
			if cn, _ := ssl.ClientCN(); cn != c.name {
				t.Errorf("common name %q, want %q", cn, c.name)
			}
			if version, _ := ssl.SSLVersion(); found && version == "" {
				t.Error("no version of TLS")
			}
			if got := tlvsOf(t, h)[config.TLVTypeSPIFFE]; got != c.id {
				t.Errorf("SPIFFE ID %q, want %q", got, c.id)
			}
		})
	}
}

func TestProxyHeaderThatIsTooLongIsRefused(t *testing.T) {
	long := []config.TLV{{Type: 0xE1, Value: bytes.Repeat([]byte("x"), 65530)}}
	_, _, err := received(t, proxySocket(config.UpstreamProxyProtocol{V2: true, Added: long}), client("192.0.2.7:1", "10.0.0.1:80"), nil)
	if err == nil || !strings.Contains(err.Error(), "65545 bytes of addresses and TLVs, more than 65535") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestBadFormatOfATLVIsRefusedWithTheCluster(t *testing.T) {
	cfg := cfgOf("a", func(c *config.Cluster) {
		c.TransportSocket = proxySocket(config.UpstreamProxyProtocol{V2: true, Added: []config.TLV{{Type: 1, Format: "bad"}}})
	})
	opts := Options{Format: func(string, bool) (func(*flow.Info) string, error) { return nil, errors.New("bad format") }}
	opts.Stats, opts.Secrets = stats.New(), certs.NewStore(certs.Feeds{})
	if err := NewSet(opts).Apply([]*config.Cluster{cfg}); err == nil || !strings.Contains(err.Error(), "added_tlvs[0].format_string: bad format") {
		t.Errorf("got %v, want the place", err)
	}
}
