package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const bootstrapOfIstiosAgent = "../../proxy/config/decode/testdata/istio-agent/"

// agentArgs are how Istio's agent starts Envoy, with all of its options.
func agentArgs(bootstrap string) []string {
	return []string{
		"-c", bootstrap, "--drain-time-s", "45", "--drain-strategy", "immediate", "--local-address-ip-version", "v4",
		"--file-flush-interval-msec", "1000", "--disable-hot-restart", "--allow-unknown-static-fields",
		"--file-flush-min-size-kb", "16", "-l", "warning", "--component-log-level", "misc:error", "--skip-deprecated-logs",
		"--enable-core-dump", "--config-yaml", `{"admin":{"profile_path":"/tmp/x"}}`, "--concurrency", "2",
	}
}

func TestTheCommandOfIstiosAgentIsTakenWithEachOfItsBootstraps(t *testing.T) {
	files, err := filepath.Glob(bootstrapOfIstiosAgent + "*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bootstraps: %v", err)
	}
	for _, file := range files {
		out, text, code := command(t, append(agentArgs(file), "--mode", "validate")...)
		if want, refused := refusedOfIstiosAgent()[filepath.Base(file)]; refused {
			if code != exitFailed || !strings.Contains(text, want) {
				t.Errorf("%s: code %d, want %q in %s", file, code, want, text)
			}
			continue
		}
		if code != exitOK || !strings.Contains(out, "OK: ") {
			t.Errorf("%s: code %d: %s", file, code, text)
		}
	}
}

// refusedOfIstiosAgent are the bootstraps that ask for what there is not.
func refusedOfIstiosAgent() map[string]string {
	return map[string]string{
		"ambient.json":        `bootstrap_extensions[0].typed_config.type_url: "type.googleapis.com/istio.workload.BootstrapExtension"`,
		"load_stats.json":     "cluster_manager.load_stats_config: is not supported by outrider: load is not reported",
		"self_discovery.json": "cluster_manager.local_cluster_name: is not supported by outrider",
	}
}

func TestEnvoysOptionsAreTakenOrRefusedByName(t *testing.T) {
	bootstrap := filepath.Join(t.TempDir(), "b.yaml")
	if err := os.WriteFile(bootstrap, []byte("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for option, refused := range map[string]bool{
		"--enable-mutex-tracing": false, "--log-stacktrace-single-entry": false, "--skip-hot-restart-on-no-parent": false,
		"--skip-hot-restart-parent-stats": false, "--socket-path=@x": false, "--socket-mode=600": false, "--allow-unknown-fields": false,
		"--base-id=3": false, "--use-dynamic-base-id": false, "--parent-shutdown-time-s=3": false, "--cpuset-threads": false,
		"--service-cluster=c": false, "--service-node=n": false, "--service-zone=z": false, "--restart-epoch=0": false,
		"--ignore-unknown-dynamic-fields": false, "--reject-unknown-dynamic-fields": false, "--log-format=%v": false,
		"--restart-epoch=1": true, "--base-id-path=/x": true, "--disable-extensions=a": true, "--stats-tag=a:b": true,
		"--file-flush-min-size-kb=0": true, "--file-flush-min-size-kb=9999999": true, "--no-such-option": true,
	} {
		_, text, code := command(t, "-c", bootstrap, "--mode", "validate", option)
		name, _, _ := strings.Cut(option, "=")
		switch {
		case refused && (code != exitUsage || !strings.Contains(text, name)):
			t.Errorf("%s: code %d, %q", option, code, text)
		case !refused && code != exitOK:
			t.Errorf("%s: code %d, %q", option, code, text)
		}
	}
}

func TestVersionsAreSaidWhereEnvoySaysThem(t *testing.T) {
	if out, _, code := command(t, "--hot-restart-version"); code != exitOK || out != "disabled\n" {
		t.Errorf("hot restart: code %d, %q", code, out)
	}
	if out, _, code := command(t, "-l", "info", "--version"); code != exitOK || !strings.Contains(out, version()) {
		t.Errorf("version: code %d, %q", code, out)
	}
}
