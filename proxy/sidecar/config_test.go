package sidecar

import (
	"strings"
	"testing"
)

func TestParseReportsEveryMistakeWithItsPlace(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"a field that does not exist", "mtsl: STRICT", "mtsl"},
		{"a mode", "mtls: STRICKT", `mtls "STRICKT": it is PERMISSIVE, STRICT or DISABLE`},
		{"the mode of a port", "ports: [{port: 80, mtls: x}]", `ports[0].mtls "x"`},
		{"a port that is ours", "ports: [{port: 15006}]", "ports[0].port 15006: this port is the sidecar's own"},
		{"a port twice", "ports: [{port: 80}, {port: 80}]", "ports[1].port 80: it is listed twice"},
		{"no port", "ports: [{mtls: STRICT}]", "ports[0].port: it is needed"},
		{"where the application is", "ports: [{port: 80, app: localhost}]", `ports[0].app "localhost"`},
		{"the PROXY protocol", "ports: [{port: 80, proxyProtocol: v3}]", `ports[0].proxyProtocol "v3"`},
		{"the outbound policy", "outbound: ANY", `outbound "ANY"`},
		{"the interception", "interception: NONE", `interception "NONE"`},
		{"a trust domain", "trustDomain: Not/One", `trustDomain "Not/One"`},
		{"an alias", "trustDomainAliases: ['a b']", `trustDomainAliases[0] "a b"`},
		{"a service without a port", "services: [{host: a, addresses: [10.0.0.1]}]", "services[0].ports: there are none"},
		{"a service that is nowhere", "services: [{host: a, ports: [80]}]", "services[0]: it needs addresses, endpoints or both"},
		{"a service's name", "services: [{host: 'a|b', ports: [80], addresses: [10.0.0.1]}]", `services[0].host "a|b"`},
		{"two services in one place", "services: [{host: a, ports: [80], addresses: [10.0.0.1]}, {host: b, ports: [80], addresses: [10.0.0.1]}]", `services[1] "b": 10.0.0.1_80 is that of "a" already`},
		{"an identity", "services: [{host: a, ports: [80], addresses: [10.0.0.1], identities: [web]}]", `services[0].identities[0] "web"`},
		{"an action", "authorization: [{action: AUDIT}]", `authorization[0].action "AUDIT"`},
		{"a principal", "authorization: [{principals: [web]}]", `authorization[0].principals[0] "web"`},
		{"a star in the middle", "authorization: [{principals: ['spiffe://a/*/b']}]", `"*" may only stand at the end`},
		{"a rule twice", "authorization: [{name: a}, {name: a}]", `authorization[1].name "a": it is there twice`},
		{"a probe of no kind", "probes: {app: {timeout: 1s}}", "probes.app: it has 0 of httpGet, tcpSocket and grpc"},
		{"our own metrics", "metrics: {port: 15020}", "metrics.port 15020"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Parse(%q): %v, want %q in it", test.text, err, test.want)
			}
		})
	}
}

func TestParseReportsAllMistakesAtOnce(t *testing.T) {
	_, err := Parse([]byte("mtls: a\noutbound: b\nports: [{port: 15001, mtls: c}]"))
	for _, want := range []string{`mtls "a"`, `outbound "b"`, "ports[0].port", "ports[0].mtls"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestOnceThereIsAnAllowRuleEveryPortHasAFilter(t *testing.T) {
	c, err := Parse([]byte("ports: [{port: 80}, {port: 81}]\nauthorization: [{ports: [80], namespaces: [dev]}]"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Resources()
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range r.Listeners[0].GetFilterChains() {
		if chain.GetName() == "virtualInbound-blackhole" {
			continue
		}
		if got := chain.GetFilters()[0].GetName(); got != "envoy.filters.network.rbac" {
			t.Errorf("chain %s %v begins with %s, want rbac", chain.GetName(), chain.GetFilterChainMatch(), got)
		}
	}
}
