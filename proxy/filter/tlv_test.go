package filter

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func TestTLVsAreMergedWithTheClients(t *testing.T) {
	tlv := func(kind byte, value string) flow.TLV { return flow.TLV{Type: kind, Value: []byte(value)} }
	added := []config.TLV{{Type: 1, Value: []byte("ours")}, {Type: 2, Format: "sni"}}
	client := []flow.TLV{tlv(1, "client"), tlv(3, "client")}
	for name, c := range map[string]struct {
		merge  config.TLVMerge
		header bool
		want   []flow.TLV
	}{
		"no header":                    {config.AddIfAbsent, false, []flow.TLV{tlv(1, "ours"), tlv(2, "web")}},
		"ADD_IF_ABSENT":                {config.AddIfAbsent, true, client},
		"OVERWRITE_BY_TYPE":            {config.OverwriteByType, true, []flow.TLV{tlv(3, "client"), tlv(1, "ours"), tlv(2, "web")}},
		"APPEND":                       {config.AppendTLVs, true, []flow.TLV{tlv(1, "client"), tlv(3, "client"), tlv(1, "ours"), tlv(2, "web")}},
		"OVERWRITE_BY_TYPE, no header": {config.OverwriteByType, false, []flow.TLV{tlv(1, "ours"), tlv(2, "web")}},
	} {
		d := Deps{Format: func(string, bool) (func(*flow.Info) string, error) {
			return func(info *flow.Info) string { return info.SNI }, nil
		}}.withDefaults()
		p, err := newTCPProxy("tcp", &config.TCPProxy{Cluster: "a", TLVs: added, TLVMerge: c.merge}, &d)
		if err != nil {
			t.Fatal(err)
		}
		info := &flow.Info{SNI: "web", ProxyHeader: c.header}
		if c.header {
			info.TLVs = client
		}
		p.addTLVs(info)
		if diff := cmp.Diff(c.want, info.TLVs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		p.Close()
	}
}
