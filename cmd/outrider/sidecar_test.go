package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outrider/proxy/sidecar"
)

// sidecarWith parses a command line of outrider sidecar.
func sidecarWith(t *testing.T, file string, args ...string) (string, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "sidecar.yaml")
		if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	c := newSidecarCommand()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs(append(args, "--print-config"))
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.Execute()
	return out.String(), err
}

func TestTheFileGoesBeforeFlagsAndFlagsBeforeTheEnvironment(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "from-env")
	t.Setenv("SERVICE_ACCOUNT", "account-of-env")
	got, err := sidecarWith(t, "namespace: from-file\nmtls: STRICT\n", "--service-account", "from-flag", "--mtls", "DISABLE", "--outbound", "REGISTRY_ONLY")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NAMESPACE: from-file", "SERVICE_ACCOUNT: from-flag", "cluster: BlackHoleCluster", "require_client_certificate: true"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the bootstrap", want)
		}
	}
	if got, err = sidecarWith(t, ""); err != nil || !strings.Contains(got, "NAMESPACE: from-env") || !strings.Contains(got, "SERVICE_ACCOUNT: account-of-env") {
		t.Errorf("the environment is not heard (%v)", err)
	}
}

func TestAMistakeInTheFileIsNamedWithTheFile(t *testing.T) {
	_, err := sidecarWith(t, "mtls: SOMETIMES\n")
	if err == nil || !strings.Contains(err.Error(), "sidecar.yaml is refused") || !strings.Contains(err.Error(), `mtls "SOMETIMES"`) {
		t.Errorf("%v", err)
	}
}

func TestAWorkloadDoesNotBecomeAnotherWhileItRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(path, []byte("namespace: b"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &running{flags: &sidecarFlags{configPath: path}}
	before, err := sidecar.Parse([]byte("namespace: a"))
	if err != nil {
		t.Fatal(err)
	}
	s.now.Store(before)
	if err := s.change(); err == nil || !strings.Contains(err.Error(), "cannot become spiffe://cluster.local/ns/b/sa/default") {
		t.Errorf("%v", err)
	}
}
