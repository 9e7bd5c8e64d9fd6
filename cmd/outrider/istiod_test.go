package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	networking "istio.io/api/networking/v1alpha3"
)

// istiodWith parses a command line of outrider sidecar, and prepares what it
// says of istiod.
func istiodWith(t *testing.T, args ...string) (*sidecarFlags, *controlPlane, error) {
	t.Helper()
	var f sidecarFlags
	c := &cobra.Command{}
	f.agent.register(c)
	f.lifecycle.register(c)
	f.istiod.register(c)
	f.register(c)
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	p, err := f.plane(c.Flags())
	return &f, p, err
}

func TestIstiodIsTheAuthorityTooUnlessAnotherIsNamed(t *testing.T) {
	f, _, err := istiodWith(t, "--istiod", "istiod.mesh.example:15012", "--istiod-root-cert", "x.pem")
	if err != nil {
		t.Fatal(err)
	}
	if f.agent.caAddr != "istiod.mesh.example:15012" || f.agent.caServerName != "istiod.mesh.example" || f.agent.caRoot != "x.pem" || f.agent.clusterID != "Kubernetes" {
		t.Errorf("%+v", f.agent)
	}
	if f, _, err = istiodWith(t, "--istiod", "istiod.mesh.example:15012", "--ca-addr", "ca:1"); err != nil || f.agent.caAddr != "ca:1" || f.agent.caServerName != "" {
		t.Errorf("%v %+v", err, f.agent)
	}
	t.Setenv("CA_ADDR", "ca:2")
	if f, _, err = istiodWith(t, "--istiod", "istiod.mesh.example:15012"); err != nil || f.agent.caAddr != "ca:2" {
		t.Errorf("%v %+v", err, f.agent)
	}
}

func TestIstiodsNameIsItsHostUnlessNoCertificateHasThat(t *testing.T) {
	for _, c := range []struct{ address, said, want string }{
		{"istiod-canary.istio-system.svc:15012", "", "istiod-canary.istio-system.svc"},
		{"10.0.0.1:15012", "", "istiod.istio-system.svc"},
		{"[fd00::1]:15012", "", "istiod.istio-system.svc"},
		{"localhost:15012", "", "istiod.istio-system.svc"},
		{"10.0.0.1:15012", "istiod.example", "istiod.example"},
	} {
		f, p, err := istiodWith(t, "--istiod", c.address, "--istiod-server-name", c.said)
		if err != nil {
			t.Fatal(err)
		}
		san := p.node.Proto.GetMetadata().AsMap()["PILOT_SAN"]
		if f.istiod.serverName != c.want || san.([]any)[0] != c.want {
			t.Errorf("%s: %q, PILOT_SAN %v, want %q", c.address, f.istiod.serverName, san, c.want)
		}
	}
}

func TestTheAddressMayBeThatOfTheProxyConfig(t *testing.T) {
	t.Setenv("PROXY_CONFIG", "discoveryAddress: istiod.other.svc:15012")
	if f, _, err := istiodWith(t, "--istiod", "proxy-config"); err != nil || f.istiod.address != "istiod.other.svc:15012" || f.istiod.serverName != "istiod.other.svc" {
		t.Errorf("%v %+v", err, f)
	}
}

func TestWhatIstiodSaysNobodyElseSays(t *testing.T) {
	for _, args := range [][]string{
		{"--istiod", "i:1", "--config", "x"}, {"--istiod", "i:1", "--mtls", "STRICT"}, {"--istiod", "i:1", "--outbound", "ALLOW_ANY"}, {"--istiod", "i:1", "--access-log", "x"},
		{"--istiod", "i:1", "--node-type", "router"}, {"--istiod", "no-port"}, {"--istio-version", "1.2.3"}, {"--dns-capture"},
	} {
		if _, _, err := istiodWith(t, args...); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, p, err := istiodWith(t); p != nil || err != nil {
		t.Errorf("without --istiod: %v, %v", p, err)
	}
}

func TestTheEndIsAsIstiosAgentWouldMakeItUnlessAFlagSaysSo(t *testing.T) {
	t.Setenv("PROXY_CONFIG", "terminationDrainDuration: 7s")
	f, _, err := istiodWith(t, "--istiod", "i:1")
	if err != nil || f.drainTimeS != 7 || !f.lifecycle.exitOnZero {
		t.Errorf("%v: %d s", err, f.drainTimeS)
	}
	if f, _, err = istiodWith(t, "--istiod", "i:1", "--drain-time-s", "3"); err != nil || f.drainTimeS != 3 {
		t.Errorf("%v: %d s", err, f.drainTimeS)
	}
	t.Setenv("TERMINATION_DRAIN_DURATION_SECONDS", "9")
	t.Setenv("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")
	t.Setenv("MINIMUM_DRAIN_DURATION", "2s")
	f, p, err := istiodWith(t, "--istiod", "i:1")
	if err != nil || f.drainTimeS != 9 || f.lifecycle.minDrainS != 2 || p.node.Proto.GetMetadata().AsMap()["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] != "true" {
		t.Errorf("%v: %d s, at least %d s", err, f.drainTimeS, f.lifecycle.minDrainS)
	}
	t.Setenv("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "false")
	if f, _, err = istiodWith(t, "--istiod", "i:1"); err != nil || f.lifecycle.exitOnZero || f.lifecycle.check() != nil {
		t.Errorf("%v: %+v", err, f.lifecycle)
	}
	for name, text := range map[string]string{"TERMINATION_DRAIN_DURATION_SECONDS": "soon", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "maybe", "MINIMUM_DRAIN_DURATION": "2"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")
			t.Setenv(name, text)
			if _, _, err := istiodWith(t, "--istiod", "i:1"); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAReadinessProbeOfTheProxyConfigIsMadeOrRefused(t *testing.T) {
	t.Setenv("PROXY_CONFIG", `{readinessProbe: {httpGet: {port: 8080, path: /ready}, periodSeconds: 3, failureThreshold: 2}}`)
	_, p, err := istiodWith(t, "--istiod", "i:1")
	if err != nil || p.health == nil || p.health.Period.Seconds() != 3 || p.health.Timeout.Seconds() != 1 || p.health.Failures != 2 || p.health.Successes != 1 {
		t.Errorf("%v %+v", err, p)
	}
	for probe, want := range map[*networking.ReadinessProbe]string{
		{HealthCheckMethod: &networking.ReadinessProbe_Exec{Exec: &networking.ExecHealthCheckConfig{Command: []string{"true"}}}}: "only httpGet, tcpSocket and grpc",
		{}: "only httpGet, tcpSocket and grpc",
		{HealthCheckMethod: &networking.ReadinessProbe_TcpSocket{TcpSocket: &networking.TCPHealthCheckConfig{Port: 70000}}}: "port 70000 is none",
	} {
		if _, err := probeOf(probe); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPrintConfigPrintsTheBootstrapOfIstiosAgent(t *testing.T) {
	t.Setenv("POD_NAME", "web-1")
	t.Setenv("POD_NAMESPACE", "shop")
	t.Setenv("INSTANCE_IP", "10.1.2.3")
	got, err := sidecarWith(t, "", "--istiod", "istiod.istio-system.svc:15012", "--istio-version", "1.30.3")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"id: sidecar~10.1.2.3~web-1.shop~shop.svc.cluster.local", "ISTIO_VERSION: 1.30.3", "NAMESPACE: shop", "api_type: DELTA_GRPC", "path: ./etc/istio/proxy/XDS",
		"path: ./var/run/secrets/workload-spiffe-uds/socket", "name: 0.0.0.0_15090", "name: 0.0.0.0_15021", "tag_name: response_code",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the bootstrap", want)
		}
	}
}

func TestDNSIsAnsweredWhereItIsCaptured(t *testing.T) {
	plane := func(args ...string) *controlPlane {
		_, p, err := istiodWith(t, append(args, "--istiod", "i:1")...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if o, err := plane().dnsOptions(); o != nil || err != nil {
		t.Errorf("without capture: %+v, %v", o, err)
	}
	t.Setenv("POD_NAMESPACE", "shop")
	p := plane("--dns-capture")
	o, err := p.dnsOptions()
	if err != nil || o == nil || o.Namespace != "shop" || o.Domain != "shop.svc.cluster.local" || o.ForwardBeforeTable || p.node.Proto.GetMetadata().AsMap()["DNS_CAPTURE"] != "true" {
		t.Errorf("%v, %+v", err, o)
	}
	t.Setenv("ISTIO_META_DNS_CAPTURE", "true")
	t.Setenv("DNS_PROXY_ADDR", "127.0.0.1:53")
	t.Setenv("DNS_FORWARD_TIMEOUT", "2s")
	p = plane()
	if o, err = p.dnsOptions(); err != nil || o == nil || o.Listen[0] != "127.0.0.1:53" || !o.ForwardBeforeTable || o.Timeout.Seconds() != 2 {
		t.Errorf("%v, %+v", err, o)
	}
	t.Setenv("DNS_FORWARD_TIMEOUT", "2")
	if _, err = p.dnsOptions(); err == nil || !strings.Contains(err.Error(), "DNS_FORWARD_TIMEOUT") {
		t.Errorf("%v", err)
	}
}
