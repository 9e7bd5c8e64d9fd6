package decode

import (
	"path/filepath"
	"testing"
)

// stockBootstraps are in testdata, and accepted by Envoy as it is released.
var stockBootstraps = []string{"sidecar.yaml", "outbound.yaml", "secrets.json"}

func TestBootstrapsThatEnvoyTakesAreTaken(t *testing.T) {
	for _, name := range append(stockBootstraps, "metadata_exchange.yaml") {
		if _, err := BootstrapFile(filepath.Join("testdata", name), Options{}); err != nil {
			t.Errorf("%s:\n%v", name, err)
		}
	}
}
