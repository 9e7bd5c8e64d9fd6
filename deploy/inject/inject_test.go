package inject

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func options() Options {
	return Options{
		Image: "example.org/outrider:1", Native: true, CAAddress: "istiod.istio-system.svc:15012",
		RootConfigMap: "istio-ca-root-cert", TrustDomain: "cluster.local", ClusterID: "Kubernetes",
	}
}

func TestManifestsAreInjectedAsTheGoldenOnes(t *testing.T) {
	beside := options()
	beside.Native, beside.ConfigMap = false, "outrider"
	istiod := options()
	istiod.Istiod = istiod.CAAddress
	for name, o := range map[string]Options{"deployment": options(), "cronjob": options(), "deployment.beside": beside, "deployment.istiod": istiod} {
		t.Run(name, func(t *testing.T) {
			source, _, _ := strings.Cut(name, ".")
			in, err := os.ReadFile(filepath.Join("testdata", source+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := Manifests(bytes.NewReader(in), &got, o); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-golden +got):\n%s", diff)
			}
		})
	}
}

func TestAnInjectedManifestStaysAsItIs(t *testing.T) {
	in, err := os.ReadFile("testdata/deployment.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	said, err := Manifests(bytes.NewReader(in), &got, options())
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(in) {
		t.Errorf("injecting twice changes it:\n%s", cmp.Diff(string(in), got.String()))
	}
	if len(said) != 1 || !strings.Contains(said[0], "already") {
		t.Errorf("said %q", said)
	}
}

func TestWhatCannotWorkIsRefusedAndNothingIsWritten(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: " + spec + "\n"
	}
	tests := []struct{ name, text, want string }{
		{"another sidecar", pod("{containers: [{name: istio-proxy}]}"), `container "istio-proxy"`},
		{"the sidecar's uid", pod("{containers: [{name: a, securityContext: {runAsUser: 1337}}]}"), `container "a" runs as uid 1337`},
		{"the sidecar's uid for the pod", pod("{securityContext: {runAsUser: 1337}, containers: [{name: a}]}"), `container "a" runs as uid 1337`},
		{"a probe of no port", pod("{containers: [{name: a, livenessProbe: {httpGet: {port: web}}}]}"), `port "web" is none of the container's`},
		{"a volume of our name", pod("{volumes: [{name: outrider-run}], containers: [{name: a}]}"), `volume "outrider-run"`},
		{"no pod", "kind: Deployment\nmetadata: {name: d}\nspec: {}\n", "Deployment/d has no pod"},
		{"no YAML", "a: [", "document 0"},
		{"nothing", "", "no manifest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			_, err := Manifests(strings.NewReader(test.text), &out, options())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q in it", err, test.want)
			}
			if out.Len() > 0 {
				t.Errorf("something was written: %q", out.String())
			}
		})
	}
}

func TestAnotherUserOfTheContainerIsNoConflict(t *testing.T) {
	in := "kind: Pod\nmetadata: {name: p}\nspec: {securityContext: {runAsUser: 1337}, containers: [{name: a, securityContext: {runAsUser: 1000}}]}\n"
	if _, err := Manifests(strings.NewReader(in), &bytes.Buffer{}, options()); err != nil {
		t.Error(err)
	}
}

func TestAShortFileAndIstiodAreNotBoth(t *testing.T) {
	o := options()
	o.Istiod, o.ConfigMap = o.CAAddress, "outrider"
	in, err := os.ReadFile("testdata/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Manifests(bytes.NewReader(in), &bytes.Buffer{}, o); err == nil || !strings.Contains(err.Error(), `config map "outrider", and istiod`) {
		t.Errorf("%v", err)
	}
}
