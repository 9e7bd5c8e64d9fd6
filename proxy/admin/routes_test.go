package admin

import (
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestRoutesAreDumpedWhereThereAreSome(t *testing.T) {
	o := options(nil)
	sections := func() []string {
		t.Helper()
		var dump adminv3.ConfigDump
		if err := protojson.Unmarshal(ask(t, o, "GET", "/config_dump").Body.Bytes(), &dump); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range dump.GetConfigs() {
			out = append(out, c.GetTypeUrl())
		}
		return out
	}
	without := len(sections())
	o.Routes = func() []Route {
		return []Route{
			{Name: "inline", Source: &routev3.RouteConfiguration{Name: "inline"}},
			{Name: "80", Dynamic: true, Version: "v3", Source: &routev3.RouteConfiguration{Name: "80"}, Refused: &Refused{Version: "v4", Details: "no such cluster"}},
		}
	}
	if got := sections(); len(got) != without+2 || got[len(got)-2] != "type.googleapis.com/envoy.admin.v3.RoutesConfigDump" {
		t.Errorf("sections %q, want routes before secrets", got)
	}
	var dump adminv3.ConfigDump
	if err := protojson.Unmarshal(ask(t, o, "GET", "/config_dump?resource=dynamic_route_configs").Body.Bytes(), &dump); err != nil {
		t.Fatal(err)
	}
	var one adminv3.RoutesConfigDump_DynamicRouteConfig
	if len(dump.GetConfigs()) != 1 {
		t.Fatalf("got %v", &dump)
	}
	if err := dump.GetConfigs()[0].UnmarshalTo(&one); err != nil {
		t.Fatal(err)
	}
	if one.GetVersionInfo() != "v3" || one.GetErrorState().GetDetails() != "no such cluster" {
		t.Errorf("got %v", &one)
	}
}
