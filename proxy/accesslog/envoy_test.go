package accesslog

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
	"outrider/tlsmux"
)

// The files in testdata/envoy are what Envoy 1.40 printed for connections over
// testdata's certificates: an operator a line, a tab, the value.
func TestOperatorsPrintWhatEnvoyPrints(t *testing.T) {
	for name, c := range map[string]struct {
		json, omit bool
		info       func(testing.TB, golden) *flow.Info
	}{
		"tls13.txt":      {info: overTLS13},
		"tls12.txt":      {info: overTLS12},
		"nosubject.txt":  {info: withoutSubject},
		"plaintext.txt":  {info: overTCP},
		"omit.txt":       {info: overTCP, omit: true},
		"unix.txt":       {info: overUnix},
		"refused.txt":    {info: refusedUpstream},
		"tls13.json.txt": {info: overTLS13, json: true},
		"omit.json.txt":  {info: overTLS13, json: true, omit: true},
		"unix.json.txt":  {info: overUnix, json: true},
	} {
		t.Run(name, func(t *testing.T) {
			envoy := readGolden(t, name)
			info := c.info(t, envoy)
			for _, op := range envoy.order {
				if why := knownDifferences(name)[op]; why != "" {
					continue
				}
				got, err := printOne(op, info, c.json, c.omit)
				if err != nil {
					t.Errorf("%%%s%%: %v", op, err)
				} else if got != envoy.values[op] {
					t.Errorf("%%%s%%: got %q, Envoy has %q", op, got, envoy.values[op])
				}
			}
		})
	}
}

// knownDifferences are where we differ on purpose, and why.
func knownDifferences(file string) map[string]string {
	out := map[string]string{}
	for name, s := range operators() {
		if s.refused != "" {
			out[name] = s.refused
		}
	}
	out["UPSTREAM_CONNECTION_ID"] = "only the upstream connections of requests have numbers"
	out["METADATA(VIRTUAL_HOST:vm:k)"] = "metadata of a VIRTUAL_HOST is not kept"
	out["METADATA(LISTENER:a)"] = "metadata of a LISTENER is not kept"
	if !strings.Contains(file, "json") {
		out["DOWNSTREAM_PEER_OTHERNAME_SAN"] = "control characters are escaped, Envoy prints them"
		out["DOWNSTREAM_LOCAL_OTHERNAME_SAN"] = out["DOWNSTREAM_PEER_OTHERNAME_SAN"]
	}
	out["UPSTREAM_CONNECTION_POOL_READY_DURATION"] = "ours begins with the connect and has its TLS in it; Envoy's has no point in common with the line's others"
	return out
}

func TestKnownDifferencesAreStillDifferences(t *testing.T) {
	envoy := readGolden(t, "refused.txt")
	info := refusedUpstream(t, envoy)
	for op, why := range knownDifferences("refused.txt") {
		want, there := envoy.values[op]
		if got, err := printOne(op, info, false, false); there && err == nil && got == want && !strings.HasSuffix(op, "OTHERNAME_SAN") {
			t.Errorf("%s agrees with Envoy now, and is listed as different: %s", op, why)
		}
	}
}

func printOne(op string, info *flow.Info, json, omit bool) (string, error) {
	f, err := parse("%" + op + "%")
	if err != nil {
		return "", err
	}
	e := &entry{info: info, event: "TcpConnectionEnd", now: info.End}
	if json {
		b, _ := typed{f[0].operator}.append(nil, e, omit)
		return string(b), nil
	}
	return string(f.text(nil, e, omit)), nil
}

type golden struct {
	order  []string
	values map[string]string
}

func readGolden(t *testing.T, name string) golden {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "envoy", name))
	if err != nil {
		t.Fatal(err)
	}
	g := golden{values: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		op, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		g.order = append(g.order, op)
		g.values[op] = value
	}
	return g
}

// start and the like take what is different in each run of Envoy from its line.
func (g golden) number(op string) int64 {
	n, _ := strconv.ParseInt(g.values[op], 10, 64)
	return n
}

func (g golden) addr(op string) flow.Addr {
	s := strings.Trim(g.values[op], `"`)
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return flow.Addr{AddrPort: ap}
	}
	if !strings.HasPrefix(s, "/") {
		s = ""
	}
	return flow.Addr{Path: s}
}

// overTCP is a connection in plaintext.
func overTCP(t testing.TB, g golden) *flow.Info {
	t.Helper()
	seconds, nanos, _ := strings.Cut(strings.Trim(g.values["START_TIME(%s.%9f)"], `"`), ".")
	s, _ := strconv.ParseInt(seconds, 10, 64)
	n, _ := strconv.ParseInt(nanos, 10, 64)
	metadata := func(ns string, values map[string]any) map[string]*structpb.Struct {
		v, err := structpb.NewStruct(values)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]*structpb.Struct{ns: v}
	}
	i := &flow.Info{
		ID: uint64(g.number("CONNECTION_ID")), Start: time.Unix(s, n),
		Remote: g.addr("DOWNSTREAM_REMOTE_ADDRESS"), DirectRemote: g.addr("DOWNSTREAM_DIRECT_REMOTE_ADDRESS"),
		Local: g.addr("DOWNSTREAM_LOCAL_ADDRESS"), DirectLocal: g.addr("DOWNSTREAM_DIRECT_LOCAL_ADDRESS"),
		UpstreamHost: g.addr("UPSTREAM_HOST"), UpstreamLocal: g.addr("UPSTREAM_LOCAL_ADDRESS"),
		UpstreamHostname: "name.example:99", UpstreamCluster: "cplain", UpstreamClusterStat: "alt", UpstreamAttempts: 1,
		FilterChain: "chain-plain", FilterState: map[string]string{"fs": "state value"},
		ClusterMetadata:  metadata("cm", map[string]any{"k": "v 1", "n": 2}),
		UpstreamMetadata: metadata("um", map[string]any{"k": []any{1, "a"}}),
	}
	i.End = i.Start.Add(time.Duration(g.number("DURATION")) * time.Millisecond)
	i.UpstreamConnected = i.Start.Add(time.Duration(g.number("UPSTREAM_CONNECTION_POOL_READY_DURATION")) * time.Millisecond)
	i.UpstreamDial = i.Start.Add(time.Duration(g.number("COMMON_DURATION(DS_RX_BEG:US_CX_BEG:us)")) * time.Microsecond)
	i.UpstreamDialed = i.UpstreamDial.Add(time.Duration(g.number("COMMON_DURATION(US_CX_BEG:US_CX_END:us)")) * time.Microsecond)
	for _, n := range []interface{ Store(uint64) }{&i.Received, &i.UpstreamSent} {
		n.Store(3)
	}
	for _, n := range []interface{ Store(uint64) }{&i.Sent, &i.UpstreamReceived} {
		n.Store(9)
	}
	return i
}

func overUnix(t testing.TB, g golden) *flow.Info {
	i := overTCP(t, g)
	i.UpstreamHostname, i.UpstreamCluster, i.FilterChain = "", "cunix", "chain-unix"
	i.Remote, i.DirectRemote, i.UpstreamLocal = flow.Addr{Path: "@"}, flow.Addr{}, flow.Addr{Path: "@"} // unnamed
	return i
}

func refusedUpstream(t testing.TB, g golden) *flow.Info {
	i := overTCP(t, g)
	i.UpstreamHostname, i.UpstreamCluster, i.FilterChain = "", "cfail", "chain-fail"
	i.UpstreamFailure, i.LocalCloseReason = "delayed connect error: Connection refused", "tcp_initializion_failure:0"
	i.Flags.Set(flow.UpstreamConnectionFailure | flow.UpstreamRetryLimitExceeded)
	i.UpstreamConnected, i.UpstreamDial, i.UpstreamDialed = time.Time{}, time.Time{}, time.Time{}
	i.Received.Store(0)
	i.Sent.Store(0)
	i.UpstreamReceived.Store(0)
	i.UpstreamSent.Store(0)
	return i
}

// overTLS13 is mTLS on both sides.
func overTLS13(t testing.TB, g golden) *flow.Info {
	i := overTCP(t, g)
	i.UpstreamHostname, i.UpstreamCluster, i.FilterChain, i.SNI = "", "ctls", "chain-tls", "web_a.foo.svc"
	client, server, ca := cert(t, "client"), cert(t, "server"), cert(t, "int")
	i.Downstream = &tlsmux.State{
		Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_256_GCM_SHA384, Curve: tls.X25519, SNI: i.SNI,
		Peer: []*x509.Certificate{client, ca}, Local: server,
	}
	i.Upstream = &tlsmux.State{
		Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Curve: tls.X25519,
		SNI: "web.foo.svc", Peer: []*x509.Certificate{server, ca}, Local: client,
		SessionID: strings.Trim(g.values["UPSTREAM_TLS_SESSION_ID"], `"`),
	}
	i.UpstreamConnected = i.UpstreamDial.Add(time.Duration(g.number("COMMON_DURATION(US_CX_BEG:US_HS_END:ns)")))
	return i
}

func overTLS12(t testing.TB, g golden) *flow.Info {
	i := overTLS13(t, g)
	i.SNI = "web.foo.svc"
	i.Downstream.Version, i.Downstream.CipherSuite = tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	return i
}

func withoutSubject(t testing.TB, g golden) *flow.Info {
	i := overTLS13(t, g)
	i.SNI = "web.foo.svc"
	i.Downstream.Peer = []*x509.Certificate{cert(t, "empty"), cert(t, "root")}
	return i
}

func cert(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
