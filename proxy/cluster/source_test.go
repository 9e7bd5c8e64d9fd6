package cluster

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func TestOriginalSourceOfTheOtherFamilyIsRefused(t *testing.T) {
	d := newDialer(&config.Cluster{}, config.BindConfig{})
	_, err := d.of(&flow.Info{UpstreamSource: &flow.Source{Addr: netip.MustParseAddrPort("[2001:db8::7]:0")}}).dial(context.Background(), config.Address{AddrPort: netip.MustParseAddrPort("127.0.0.1:1")})
	if err == nil || !strings.Contains(err.Error(), "2001:db8::7 cannot be bound for 127.0.0.1:1") {
		t.Errorf("got %v, want a refusal", err)
	}
}
