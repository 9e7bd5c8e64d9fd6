package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pod is what Istio's injection gives a sidecar.
func pod(t *testing.T, more ...string) Source {
	t.Helper()
	return Source{
		Pod: "web-1", Namespace: "dev", ServiceAccount: "web", ServerName: "istiod.istio-system.svc",
		Labels:      file(t, "app=\"web\"\nversion=\"v1\"\npod-template-hash=\"77\"\ntopology.istio.io/locality=\"r1.z1\"\n"),
		Annotations: file(t, "kubernetes.io/config.seen=\"now\"\nproxy.istio.io/config=\"concurrency: 3\\nproxyMetadata: {ISTIO_META_A: annotated}\\n\"\n"),
		Addresses:   []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8")},
		Environ: append([]string{
			"INSTANCE_IP=10.0.0.8", "ISTIO_META_CLUSTER_ID=east", "ISTIO_META_MESH_ID=mesh1", "ISTIO_META_WORKLOAD_NAME=web", "ISTIO_META_DNS_CAPTURE=true",
			"ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/dev/deployments/web", `ISTIO_METAJSON_X={"B":{"c":"d"}}`,
			`PROXY_CONFIG={"concurrency":2,"proxyMetadata":{"ISTIO_META_C":"said","ISTIO_META_A":"no"},"terminationDrainDuration":"9s"}`, "HOME=/",
		}, more...),
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, s Source) *Node {
	t.Helper()
	n, err := Read(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestANodeIsWhatIstiosAgentSaysOfAPod(t *testing.T) {
	n := read(t, pod(t))
	if want := "sidecar~10.0.0.8~web-1.dev~dev.svc.cluster.local"; n.Proto.GetId() != want {
		t.Errorf("id %q, want %q", n.Proto.GetId(), want)
	}
	if want := "web.dev"; n.Proto.GetCluster() != want {
		t.Errorf("cluster %q, want %q", n.Proto.GetCluster(), want)
	}
	if l := n.Proto.GetLocality(); l.GetRegion() != "r1" || l.GetZone() != "z1" || l.GetSubZone() != "" {
		t.Errorf("locality %v", l)
	}
	got := n.Proto.GetMetadata().AsMap()
	proxy, _ := got["PROXY_CONFIG"].(map[string]any)
	delete(got, "PROXY_CONFIG")
	delete(got, "ANNOTATIONS")
	want := map[string]any{
		"NAME": "web-1", "NAMESPACE": "dev", "SERVICE_ACCOUNT": "web", "INSTANCE_IPS": "10.0.0.8,10.0.0.7", "ENVOY_STATUS_PORT": 15021.0, "ENVOY_PROMETHEUS_PORT": 15090.0,
		"PILOT_SAN": []any{"istiod.istio-system.svc"}, "ISTIO_VERSION": Version, "CLUSTER_ID": "east", "MESH_ID": "mesh1", "WORKLOAD_NAME": "web", "INTERCEPTION_MODE": "REDIRECT",
		"OWNER": "kubernetes://apis/apps/v1/namespaces/dev/deployments/web", "DNS_CAPTURE": "true", "B": map[string]any{"c": "d"}, "A": "annotated", "C": "said",
		"LABELS": map[string]any{"app": "web", "version": "v1", "topology.istio.io/locality": "r1.z1", "istio-locality": "r1/z1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if proxy["concurrency"] != 3.0 || proxy["terminationDrainDuration"] != "9s" || proxy["discoveryAddress"] != "istiod.istio-system.svc:15012" {
		t.Errorf("PROXY_CONFIG %v", proxy)
	}
	if !n.DNSCapture || !n.Said["terminationDrainDuration"] || n.Said["drainDuration"] {
		t.Errorf("DNS capture %t, said %v", n.DNSCapture, n.Said)
	}
}

func TestWhatIsSaidByFlagGoesBeforeTheEnvironment(t *testing.T) {
	s := pod(t, "ISTIO_META_ISTIO_VERSION=1.2.3", "ISTIO_META_INTERCEPTION_MODE=REDIRECT", `ISTIO_METAJSON_LABELS={"app":"other","zone":"z"}`)
	s.IstioVersion, s.Interception, s.ClusterID, s.Domain = "1.30.0", "TPROXY", "west", "example"
	n := read(t, s)
	m := n.Proto.GetMetadata().AsMap()
	if m["ISTIO_VERSION"] != "1.30.0" || m["INTERCEPTION_MODE"] != "TPROXY" || m["CLUSTER_ID"] != "west" || !strings.HasSuffix(n.Proto.GetId(), "~example") {
		t.Errorf("%s %v", n.Proto.GetId(), m)
	}
	labels := m["LABELS"].(map[string]any)
	if labels["app"] != "web" || labels["zone"] != "z" {
		t.Errorf("the pod's labels go over the environment's, and not %v", labels)
	}
	if m["STATIC_LABELS"] == nil {
		t.Error("no STATIC_LABELS")
	}
}

func TestAMeshConfigFileIsUnderTheEnvironment(t *testing.T) {
	s := pod(t)
	s.MeshConfig = file(t, "accessLogFile: /dev/stdout\ndefaultConfig:\n  concurrency: 9\n  discoveryAddress: istiod.other:15012\n")
	n := read(t, s)
	if n.Proxy.GetDiscoveryAddress() != "istiod.other:15012" || n.Proxy.GetConcurrency().GetValue() != 3 {
		t.Errorf("%v", n.Proxy)
	}
}

func TestANodeWithoutAnythingHasAnAddressAndTheDefaults(t *testing.T) {
	n := read(t, Source{Pod: "vm", Namespace: "default", ServiceAccount: "default"})
	if want := "sidecar~127.0.0.1~vm.default~default.svc.cluster.local"; n.Proto.GetId() != want {
		t.Errorf("id %q, want %q", n.Proto.GetId(), want)
	}
	if want := "istio-proxy.default"; n.Proto.GetCluster() != want {
		t.Errorf("cluster %q, want %q", n.Proto.GetCluster(), want)
	}
}

func TestWhatOutriderCannotDoIsNotAskedFor(t *testing.T) {
	n := read(t, pod(t, "ISTIO_META_ENABLE_HBONE=true"))
	if _, ok := n.Proto.GetMetadata().AsMap()["ENABLE_HBONE"]; ok || len(n.Notes) != 1 || !strings.Contains(n.Notes[0], "ISTIO_META_ENABLE_HBONE=true") {
		t.Errorf("notes %q, metadata %v", n.Notes, n.Proto.GetMetadata())
	}
}

func TestWhatCannotBeReadIsRefusedByName(t *testing.T) {
	for variable, want := range map[string]string{
		`PROXY_CONFIG={"concurency":2}`:                                 `PROXY_CONFIG: proto:`,
		`PROXY_CONFIG={"statsdUdpAddress":"1.2.3.4:5"}`:                 `statsdUdpAddress is not supported`,
		`PROXY_CONFIG={"tracing":{"zipkin":{"address":"zipkin:9411"}}}`: `tracing.zipkin is not supported`,
		`PROXY_CONFIG={"proxyAdminPort":1}`:                             `proxyAdminPort 1 is not supported`,
		`PROXY_CONFIG={"customConfigFile":"x"}`:                         `customConfigFile is not supported`,
		`ISTIO_METAJSON_X=1`:                                            `ISTIO_METAJSON_X is no JSON object`,
		`INSTANCE_IP=there`:                                             `INSTANCE_IP: ParseAddr("there")`,
		`ISTIO_META_GENERATOR=grpc`:                                     `ISTIO_META_GENERATOR "grpc"`,
	} {
		if _, err := Read(pod(t, variable)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", variable, err, want)
		}
	}
	s := pod(t)
	s.Labels = file(t, "app=web\n")
	if _, err := Read(s); err == nil || !strings.Contains(err.Error(), `the value of "app", web`) {
		t.Errorf("labels without quotes: %v", err)
	}
}

func FuzzDownward(f *testing.F) {
	f.Add("app=\"web\"\nx=\"a\\nb\"\n=\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := parseDownward(text)
		if err != nil && out != nil {
			t.Error("both a value and an error")
		}
	})
}

func TestMetricsAreThoseOfTheAnnotationsOrTheProxyConfig(t *testing.T) {
	s := pod(t, `PROXY_CONFIG={"proxyStatsMatcher":{"inclusionPrefixes":["a","http.{pod_ip}_"],"inclusionSuffixes":["s"],"inclusionRegexps":["r.*"]},"extraStatTags":["t"]}`)
	s.Annotations = file(t, "sidecar.istio.io/statsInclusionSuffixes=\"x,y\"\nsidecar.istio.io/extraStatTags=\"u\"\nsidecar.istio.io/statsHistogramBuckets=\"{}\"\n")
	n := read(t, s)
	want := Stats{Prefixes: []string{"a", "http.10.0.0.8_", "http.10.0.0.7_"}, Suffixes: []string{"x", "y"}, Regexps: []string{"r.*"}, Tags: []string{"t", "u"}}
	if diff := cmp.Diff(want, n.Stats()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(n.Notes) != 1 || !strings.Contains(n.Notes[0], "statsHistogramBuckets={} has no effect") {
		t.Errorf("notes %q", n.Notes)
	}
}
