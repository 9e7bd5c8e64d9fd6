package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outrider/proxy/config/decode"
)

// redirectAll redirects every connection to port 9999, the proxy's own too, to
// another port of this machine.
func redirectAll(t *testing.T, to uint16) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "loop"})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(9999)},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestRedirectionOfTheProxysOwnConnectionsEnds(t *testing.T) {
	if !ownNamespace(t) {
		return
	}
	redirectAll(t, 15001)
	boot, err := decode.Bootstrap([]byte(`
static_resources:
  clusters: [{name: passthrough, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}]
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 15001}}
    listener_filters: [{name: o, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]
    filter_chains: [{filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: passthrough}}]}]
`), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, s, t.TempDir())
	c, err := net.Dial("tcp", "127.0.0.1:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); len(b) > 0 || isTimeout(err) {
		t.Errorf("got %q, %v, want the end", b, err)
	}
	scope := r.registry.Scope("listener").Tagged("envoy_listener_address", "127.0.0.1_15001")
	if refused, total := scope.Counter("loop_refused").Value(), scope.Counter("downstream_cx_total").Value(); refused != 1 || total != 2 {
		t.Errorf("%d connections, of which %d were refused as loops; want two, and one", total, refused)
	}
}

func isTimeout(err error) bool {
	late, ok := err.(net.Error)
	return ok && late.Timeout()
}
