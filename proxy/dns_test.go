package proxy

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	wire "github.com/miekg/dns"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/proxy/config/decode"
	"outrider/proxy/dns"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// sendNames is a control plane with a table of names, and then one that is
// none; it tells what it was told of that one.
func sendNames(t *testing.T, table *anypb.Any, nack chan<- string) *xdstest.Script {
	t.Helper()
	return &xdstest.Script{OnWhole: func(s xdstest.Whole) error {
		for sent := 0; ; {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			if m.GetTypeUrl() != xds.NameTableType {
				continue
			}
			if e := m.GetErrorDetail(); e != nil {
				nack <- e.GetMessage()
				continue
			}
			sent++
			out := &discoveryv3.DiscoveryResponse{TypeUrl: xds.NameTableType, VersionInfo: "1", Nonce: "1", Resources: []*anypb.Any{table}}
			if sent > 1 {
				out.VersionInfo, out.Nonce, out.Resources = "2", "2", []*anypb.Any{{TypeUrl: xds.NameTableType, Value: []byte{0xff}}}
			}
			if err := s.Send(out); err != nil {
				return nil
			}
		}
	}}
}

func TestNamesOfTheControlPlaneAnswerDNS(t *testing.T) {
	var answer discoveryv3.DiscoveryResponse
	b, err := os.ReadFile("dns/testdata/nds.pb")
	if err == nil {
		err = proto.Unmarshal(b, &answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("search dev.svc.cluster.local\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	nack := make(chan string, 1)
	address := sendNames(t, answer.GetResources()[0], nack).Serve(t)
	r := runOver(t, bootOver(address, "GRPC", true), Options{DrainTime: time.Second, DNS: &dns.Options{Listen: []string{"127.0.0.1:0"}, ResolvConf: conf, Namespace: "dev", Domain: "dev.svc.cluster.local"}})
	r.eventually("the table", func() bool { return strings.Contains(r.get("/dns_table"), `"come": true`) })
	if text := <-nack; !strings.Contains(text, "table of names") {
		t.Errorf("the second table is refused with %q", text)
	}
	m, err := wire.Exchange((&wire.Msg{}).SetQuestion("uc.dev.svc.cluster.local.", wire.TypeA), r.dns.Addresses()[0].String())
	if err != nil || len(m.Answer) != 1 || !m.Answer[0].(*wire.A).A.Equal(net.IPv4(10, 96, 0, 10)) {
		t.Errorf("%v, %v", m, err)
	}
	if got, want := r.get("/dns?name=uc.dev.svc.cluster.local"), "is answered from the table"; !strings.Contains(got, want) {
		t.Errorf("/dns: %q, want %q", got, want)
	}
	if got := r.get("/dns?name=x&format=json"); !strings.Contains(got, `"from": "servers"`) {
		t.Errorf("/dns as JSON: %q", got)
	}
	if got := r.get("/stats?filter=outrider.dns.table"); got != "outrider.dns.table_answers_total: 1\noutrider.dns.table_hosts: 3\n" {
		t.Errorf("/stats: %q", got)
	}
}

func TestDNSNeedsTheAggregatedStream(t *testing.T) {
	boot, err := decode.Bootstrap([]byte("node: {id: a, cluster: b}"), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(boot, Options{DNS: &dns.Options{Listen: []string{"127.0.0.1:0"}}}); err == nil || !strings.Contains(err.Error(), "ads_config") {
		t.Errorf("%v", err)
	}
}
