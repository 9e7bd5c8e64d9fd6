//go:build envoy

package decode

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// These tests ask a real Envoy, whose path is in ENVOY.

// validates reports whether Envoy accepts the bootstrap at path, and what it
// says.
func validates(t *testing.T, path string) (bool, string) {
	t.Helper()
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		t.Fatal("ENVOY must be the path of an Envoy")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoy, "--mode", "validate", "-l", "critical", "-c", path).CombinedOutput()
	return err == nil, string(out)
}

func TestEnvoyTakesOurTestData(t *testing.T) {
	for _, name := range stockBootstraps {
		if ok, text := validates(t, filepath.Join("testdata", name)); !ok {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestEnvoyRefusesTheSameMistakes(t *testing.T) { envoyRefuses(t, base, mistakes) }

func TestEnvoyRefusesTheSameMistakesOfHTTP(t *testing.T) { envoyRefuses(t, httpBase, httpMistakes) }

func envoyRefuses(t *testing.T, base string, list []mistake) {
	t.Helper()
	for _, m := range list {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "envoy.yaml")
			if err := os.WriteFile(path, []byte(m.textOf(t, base)), 0o600); err != nil {
				t.Fatal(err)
			}
			ok, text := validates(t, path)
			switch {
			case ok && m.envoyTakes == "":
				t.Error("Envoy takes it")
			case !ok && m.envoyTakes != "":
				t.Errorf("Envoy refuses it: %s", text)
			}
		})
	}
}
