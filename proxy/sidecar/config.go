// Package sidecar makes the Envoy configuration of a workload's sidecar from a
// short file: Istio's virtual listeners, one set of filter chains for each
// port, one cluster for each service. What it makes runs on real Envoy too.
package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"
)

// Mode is how much mTLS is demanded of inbound connections (Istio:
// PeerAuthentication.mtls.mode).
type Mode string

// The modes.
const (
	Permissive Mode = "PERMISSIVE" // mTLS and plaintext
	Strict     Mode = "STRICT"     // mTLS only
	Disable    Mode = "DISABLE"    // the bytes as they come
)

// OutboundPolicy says what becomes of connections to what is no service
// (Istio: meshConfig.outboundTrafficPolicy.mode).
type OutboundPolicy string

// The policies.
const (
	AllowAny     OutboundPolicy = "ALLOW_ANY"     // passed through as they are
	RegistryOnly OutboundPolicy = "REGISTRY_ONLY" // closed
)

// Config is what the short file says. The zero value of each field has the
// default that is named with it.
type Config struct {
	// Workload is the application's name, for node.cluster and the access log
	// ("app").
	Workload       string `yaml:"workload"`
	Namespace      string `yaml:"namespace"`      // "default"
	ServiceAccount string `yaml:"serviceAccount"` // "default"
	TrustDomain    string `yaml:"trustDomain"`    // "cluster.local"
	// TrustDomainAliases are other trust domains whose members are peers too.
	TrustDomainAliases []string `yaml:"trustDomainAliases"`

	MTLS     Mode           `yaml:"mtls"`     // PERMISSIVE
	Outbound OutboundPolicy `yaml:"outbound"` // ALLOW_ANY
	// Interception is REDIRECT (default) or TPROXY, as the rules were made
	// (outrider iptables --istio-inbound-interception-mode). With TPROXY the
	// application sees the original source.
	Interception string `yaml:"interception"`
	// IPv6 says that the virtual listeners take IPv6 too (true).
	IPv6 *bool `yaml:"ipv6"`
	// AccessLog is the file that gets a line for each connection; "" is none.
	AccessLog string `yaml:"accessLog"`

	// ServerFirst serves applications that speak first under PERMISSIVE, too
	// (true; docs/server-first.md).
	ServerFirst *bool `yaml:"serverFirst"`

	Ports         []Port    `yaml:"ports"`
	Services      []Service `yaml:"services"`
	Authorization []Rule    `yaml:"authorization"`

	// Metrics is where the application's own metrics are, to be merged.
	Metrics *Metrics `yaml:"metrics"`
	// Probes are the application's health checks, answered on
	// :15020/app-health/NAME (Istio: ISTIO_KUBE_APP_PROBERS).
	Probes map[string]Probe `yaml:"probes"`
}

// Port is one of the application's ports. A port that is not listed is served
// as the whole workload is, and passed to where it was going.
type Port struct {
	Port uint16 `yaml:"port"`
	MTLS Mode   `yaml:"mtls"` // "": the workload's
	// App is where the application listens; "" is the original destination,
	// called from 127.0.0.6.
	App string `yaml:"app"`
	// ProxyProtocol v1 or v2 puts a PROXY header before the bytes to the
	// application; "" is none. v2 has the peer's SPIFFE ID in it
	// (docs/original-source.md).
	ProxyProtocol string `yaml:"proxyProtocol"`
}

// Service is something that the workload calls.
type Service struct {
	Host string `yaml:"host"`
	// Addresses are those that clients dial: virtual ones, or the endpoints'.
	// None: any address, on that port.
	Addresses []netip.Addr `yaml:"addresses"`
	Ports     []uint16     `yaml:"ports"`
	// Endpoints are what serves it; none: the addresses themselves.
	Endpoints []Endpoint `yaml:"endpoints"`
	// MTLS says that the endpoints are meshed (true); each may say otherwise.
	MTLS *bool `yaml:"mtls"`
	// Identities are the SPIFFE IDs that an endpoint may have; none: any of
	// the trust domain.
	Identities     []string      `yaml:"identities"`
	ConnectTimeout time.Duration `yaml:"connectTimeout"` // 10 s
}

// Endpoint is one server of a service.
type Endpoint struct {
	Address string `yaml:"address"` // an address or a DNS name
	Port    uint16 `yaml:"port"`    // 0: the service's
	MTLS    *bool  `yaml:"mtls"`
}

// Rule is one authorization policy for inbound connections (Istio:
// AuthorizationPolicy, in as far as connections tell). DENY rules come first;
// if there is any ALLOW rule, one must match, on every port.
type Rule struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"` // ALLOW (default) or DENY
	// Ports are those that it is for; none: all.
	Ports []uint16 `yaml:"ports"`
	// Principals are SPIFFE IDs; a "*" at the end is any rest.
	Principals []string `yaml:"principals"`
	Namespaces []string `yaml:"namespaces"`
	// IPBlocks are source addresses.
	IPBlocks []netip.Prefix `yaml:"ipBlocks"`
}

// Metrics is where an application's Prometheus metrics are.
type Metrics struct {
	Port uint16 `yaml:"port"`
	Path string `yaml:"path"` // "/metrics"
}

// Probe is one health check of the application; exactly one kind is given.
type Probe struct {
	HTTPGet   *HTTPGet      `yaml:"httpGet"`
	TCPSocket *TCPSocket    `yaml:"tcpSocket"`
	GRPC      *GRPC         `yaml:"grpc"`
	Timeout   time.Duration `yaml:"timeout"` // 1 s
}

// GRPC is a call of gRPC's health service, which must say SERVING.
type GRPC struct {
	Port    uint16 `yaml:"port"`
	Service string `yaml:"service"`
}

// HTTPGet is a request whose status is the answer.
type HTTPGet struct {
	Path    string            `yaml:"path"`
	Port    uint16            `yaml:"port"`
	Scheme  string            `yaml:"scheme"` // HTTP (default) or HTTPS
	Host    string            `yaml:"host"`
	Headers map[string]string `yaml:"headers"`
}

// TCPSocket is a connection that must succeed.
type TCPSocket struct {
	Port uint16 `yaml:"port"`
}

// Parse reads the file. Fields that do not exist are mistakes, and every
// mistake is reported.
func Parse(text []byte) (*Config, error) { return ParseOver(Config{}, text) }

// ParseOver reads the file over base, whose fields stand where the file says
// nothing.
func ParseOver(base Config, text []byte) (*Config, error) {
	c := &base
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	c.setDefaults()
	return c, c.check()
}

// Default is the Config of an empty file.
func Default() *Config {
	c := &Config{}
	c.setDefaults()
	return c
}

func (c *Config) setDefaults() {
	orElse(&c.Workload, "app")
	orElse(&c.Namespace, "default")
	orElse(&c.ServiceAccount, "default")
	orElse(&c.TrustDomain, "cluster.local")
	orElse(&c.MTLS, Permissive)
	orElse(&c.Outbound, AllowAny)
	orElse(&c.Interception, "REDIRECT")
	for i := range c.Ports {
		orElse(&c.Ports[i].MTLS, c.MTLS)
	}
	for i := range c.Services {
		if c.Services[i].ConnectTimeout == 0 {
			c.Services[i].ConnectTimeout = 10 * time.Second
		}
	}
	for i := range c.Authorization {
		orElse(&c.Authorization[i].Action, "ALLOW")
		orElse(&c.Authorization[i].Name, fmt.Sprintf("rule-%d", i))
	}
	if c.Metrics != nil {
		orElse(&c.Metrics.Path, "/metrics")
	}
}

func orElse[T ~string](v *T, otherwise T) {
	if *v == "" {
		*v = otherwise
	}
}

// ID is the workload's SPIFFE ID.
func (c *Config) ID() (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("trustDomain %q: %w", c.TrustDomain, err)
	}
	return spiffeid.FromSegments(td, "ns", c.Namespace, "sa", c.ServiceAccount)
}

func (c *Config) ipv6() bool { return c.IPv6 == nil || *c.IPv6 }

// mistakes gathers what is wrong, each with its place.
type mistakes []error

func (m *mistakes) add(format string, args ...any) { *m = append(*m, fmt.Errorf(format, args...)) }

func (c *Config) check() error {
	var m mistakes
	if _, err := c.ID(); err != nil {
		m = append(m, err)
	}
	for i, alias := range c.TrustDomainAliases {
		if _, err := spiffeid.TrustDomainFromString(alias); err != nil {
			m.add("trustDomainAliases[%d] %q: %w", i, alias, err)
		}
	}
	if !c.MTLS.known() {
		m.add("mtls %q: it is PERMISSIVE, STRICT or DISABLE", c.MTLS)
	}
	if c.Outbound != AllowAny && c.Outbound != RegistryOnly {
		m.add("outbound %q: it is ALLOW_ANY or REGISTRY_ONLY", c.Outbound)
	}
	if c.Interception != "REDIRECT" && c.Interception != "TPROXY" {
		m.add("interception %q: it is REDIRECT or TPROXY", c.Interception)
	}
	c.checkPorts(&m)
	for i, s := range c.Services {
		s.check(&m, fmt.Sprintf("services[%d]", i))
	}
	c.checkServices(&m)
	names := map[string]bool{}
	for i, r := range c.Authorization {
		r.check(&m, fmt.Sprintf("authorization[%d]", i))
		if names[r.Name] {
			m.add("authorization[%d].name %q: it is there twice", i, r.Name)
		}
		names[r.Name] = true
	}
	c.checkTelemetry(&m)
	return errors.Join(m...)
}

func (m Mode) known() bool { return m == Permissive || m == Strict || m == Disable }

func (c *Config) checkPorts(m *mistakes) {
	seen := map[uint16]bool{}
	for i, p := range c.Ports {
		place := fmt.Sprintf("ports[%d]", i)
		switch {
		case p.Port == 0:
			m.add("%s.port: it is needed, from 1 to 65535", place)
		case slices.Contains(reserved, p.Port):
			m.add("%s.port %d: this port is the sidecar's own", place, p.Port)
		case seen[p.Port]:
			m.add("%s.port %d: it is listed twice", place, p.Port)
		}
		seen[p.Port] = true
		if !p.MTLS.known() {
			m.add("%s.mtls %q: it is PERMISSIVE, STRICT or DISABLE", place, p.MTLS)
		}
		if app, err := netip.ParseAddrPort(p.App); p.App != "" && (err != nil || slices.Contains(reserved, app.Port())) {
			m.add("%s.app %q: it is an address with a port that is not the sidecar's own", place, p.App)
		}
		if p.ProxyProtocol != "" && p.ProxyProtocol != "v1" && p.ProxyProtocol != "v2" {
			m.add("%s.proxyProtocol %q: it is v1 or v2", place, p.ProxyProtocol)
		}
	}
}

func (s *Service) check(m *mistakes, place string) {
	if s.Host == "" || strings.ContainsAny(s.Host, "| /") {
		m.add("%s.host %q: it is a DNS name", place, s.Host)
	}
	if len(s.Ports) == 0 {
		m.add("%s.ports: there are none", place)
	}
	for i, p := range s.Ports {
		if p == 0 {
			m.add("%s.ports[%d]: it is from 1 to 65535", place, i)
		}
	}
	if len(s.Addresses) == 0 && len(s.Endpoints) == 0 {
		m.add("%s: it needs addresses, endpoints or both", place)
	}
	for i, id := range s.Identities {
		if _, err := spiffeid.FromString(id); err != nil {
			m.add("%s.identities[%d] %q: %w", place, i, id, err)
		}
	}
	for i, e := range s.Endpoints {
		if e.Address == "" {
			m.add("%s.endpoints[%d].address: it is needed", place, i)
		}
	}
}

// checkServices finds two services that would take the same connections.
func (c *Config) checkServices(m *mistakes) {
	taken := map[string]string{}
	for i, s := range c.Services {
		for _, p := range s.Ports {
			for _, where := range s.listeners(p) {
				if other, is := taken[where.name]; is {
					m.add("services[%d] %q: %s is that of %q already", i, s.Host, where.name, other)
				}
				taken[where.name] = s.Host
			}
		}
	}
}

func (r *Rule) check(m *mistakes, place string) {
	if r.Action != "ALLOW" && r.Action != "DENY" {
		m.add("%s.action %q: it is ALLOW or DENY", place, r.Action)
	}
	for i, p := range r.Principals {
		if !strings.HasPrefix(p, "spiffe://") && p != "*" {
			m.add(`%s.principals[%d] %q: it is a SPIFFE ID, with "*" at its end for any rest, or "*"`, place, i, p)
		}
		if at := strings.IndexByte(p, '*'); at >= 0 && at != len(p)-1 {
			m.add(`%s.principals[%d] %q: "*" may only stand at the end`, place, i, p)
		}
	}
}

func (c *Config) checkTelemetry(m *mistakes) {
	if c.Metrics != nil && (c.Metrics.Port == 0 || c.Metrics.Port == StatusPort) {
		m.add("metrics.port %d: it is the application's port for metrics", c.Metrics.Port)
	}
	for name, p := range c.Probes {
		if kinds := p.kinds(); kinds != 1 {
			m.add("probes.%s: it has %d of httpGet, tcpSocket and grpc, not one", name, kinds)
		}
	}
}
