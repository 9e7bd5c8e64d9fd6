package sidecar

import (
	"os"
	"path/filepath"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config/decode"
)

func TestTheBootstrapUnderIstiodIsTheGoldenOneAndIsAccepted(t *testing.T) {
	for _, all := range []bool{false, true} {
		boot, err := IstiodBootstrap(&corev3.Node{Id: "sidecar~10.0.0.1~web.dev~dev.svc.cluster.local", Cluster: "web.dev"}, IstioStats{Prefixes: []string{"http.10.0.0.1_"}, Suffixes: []string{"_total"}, Regexps: []string{"a.*b"}, Tags: []string{"zone"}}, all)
		if err != nil {
			t.Fatal(err)
		}
		got, err := YAML(boot)
		if err != nil {
			t.Fatal(err)
		}
		b, err := decode.Bootstrap(got, decode.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !all {
			if len(b.Listeners) != 0 || b.ADS == nil || !b.ADS.Delta || b.ADS.Cluster != "xds-grpc" {
				t.Errorf("%d listeners, ADS %+v", len(b.Listeners), b.ADS)
			}
			continue
		}
		golden := filepath.Join("testdata", "istiod.bootstrap.yaml")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
