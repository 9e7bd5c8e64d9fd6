package sidecar

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config/decode"
)

var update = flag.Bool("update", false, "write the golden files anew")

func parse(t *testing.T, name string) *Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBootstrapIsTheGoldenOneAndIsAccepted(t *testing.T) {
	for _, name := range []string{"all", "empty", "tproxy"} {
		t.Run(name, func(t *testing.T) {
			boot, err := parse(t, name).Bootstrap(true)
			if err != nil {
				t.Fatal(err)
			}
			got, err := YAML(boot)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".bootstrap.yaml")
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
				t.Errorf("the bootstrap is another (-golden +got):\n%s", diff)
			}
			if _, err := decode.Bootstrap(got, decode.Options{}); err != nil {
				t.Errorf("our own decoder refuses it:\n%v", err)
			}
		})
	}
}
