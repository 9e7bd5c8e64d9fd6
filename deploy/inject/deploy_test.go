package inject

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outrider/proxy/sidecar"

	"go.yaml.in/yaml/v3"
)

// manifest are the documents of one of the manifests that users apply.
func manifest(t *testing.T, name string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		doc := map[string]any{}
		if err := d.Decode(&doc); err != nil {
			return out
		}
		out = append(out, doc)
	}
}

func TestTheExampleIsInjectedAndItsFileIsOneThatTheSidecarTakes(t *testing.T) {
	text, err := os.ReadFile("../kubernetes/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	said, err := Manifests(bytes.NewReader(text), &bytes.Buffer{}, options())
	if err != nil || len(said) != 1 || !strings.Contains(said[0], "Deployment/web: injected") {
		t.Errorf("%q, %v", said, err)
	}
	found := false
	for _, doc := range manifest(t, "example.yaml") {
		if data, ok := doc["data"].(map[string]any); ok {
			found = true
			if _, err := sidecar.Parse([]byte(data["sidecar.yaml"].(string))); err != nil {
				t.Error(err)
			}
		}
	}
	if !found {
		t.Error("the example has no sidecar.yaml")
	}
}

func TestTheAuthoritysManifestIsLeftAlone(t *testing.T) {
	text, err := os.ReadFile("../kubernetes/ca.yaml")
	if err != nil {
		t.Fatal(err)
	}
	said, err := Manifests(bytes.NewReader(text), &bytes.Buffer{}, options())
	if err != nil || len(said) != 1 || !strings.Contains(said[0], "not injected") {
		t.Errorf("%q, %v", said, err)
	}
	if n := len(manifest(t, "ca.yaml")); n != 5 {
		t.Errorf("%d documents", n)
	}
}
