package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	networking "istio.io/api/networking/v1alpha3"

	"outrider/certs/agent"
	"outrider/certs/csr"
	"outrider/proxy/dns"
	"outrider/proxy/istio/istiod"
	"outrider/proxy/istio/node"
	"outrider/proxy/sidecar"
)

// fromProxyConfig as --istiod takes the address from the ProxyConfig.
const fromProxyConfig = "proxy-config"

// istiodName is what istiod's certificate has where its address is no name.
const istiodName = "istiod.istio-system.svc"

// istiodFlags are how a sidecar is configured by istiod, without Istio's agent.
type istiodFlags struct {
	address, serverName, root string
	version, domain, nodeType string
	labels, annotations, mesh string
	dnsCapture                bool
	cache                     string
	resolvConf                string
}

func (f *istiodFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.address, "istiod", "", "istiod, host:port: the configuration comes from it, and certificates too unless --ca-addr or --source says otherwise; proxy-config takes discoveryAddress of $PROXY_CONFIG (docs/istiod.md)")
	fs.StringVar(&f.serverName, "istiod-server-name", env("ISTIOD_SAN", ""), "the name that istiod's certificate has ($ISTIOD_SAN); \"\" is the host's, or "+istiodName+" if that is an address or localhost")
	fs.StringVar(&f.root, "istiod-root-cert", env("XDS_ROOT_CA", ""), "the file of istiod's root, SYSTEM for this machine's roots ($XDS_ROOT_CA); \"\" is --ca-root-cert")
	fs.StringVar(&f.version, "istio-version", "", "the version of Istio's proxy that istiod is told; \"\" is $ISTIO_META_ISTIO_VERSION or "+node.Version)
	fs.StringVar(&f.domain, "domain", "", "the DNS domain of the node; \"\" is NAMESPACE.svc.cluster.local")
	fs.StringVar(&f.nodeType, "node-type", "sidecar", "what the proxy is to istiod; router (a gateway) is refused")
	fs.StringVar(&f.labels, "pod-labels", node.LabelsPath, "the pod's labels, a file of the downward API")
	fs.StringVar(&f.annotations, "pod-annotations", node.AnnotationsPath, "its annotations, likewise")
	fs.StringVar(&f.mesh, "mesh-config", node.MeshConfigPath, "the file of the mesh's configuration, whose defaultConfig is under $PROXY_CONFIG")
	fs.StringVar(&f.cache, "xds-cache", "", "directory that keeps istiod's last good configuration, for a start without it (with --output-certs)")
	fs.BoolVar(&f.dnsCapture, "dns-capture", false, "answer DNS on :"+strconv.Itoa(sidecar.DNSPort)+" with istiod's table of names (also $ISTIO_META_DNS_CAPTURE=true)")
	fs.StringVar(&f.resolvConf, "dns-resolv-conf", "", "the servers for all other names, and the search domains; \"\" is /etc/resolv.conf, or on port 53 "+resolvConfInstead+" if that is there")
}

// controlPlane is a sidecar's istiod.
type controlPlane struct {
	flags  *istiodFlags
	node   *node.Node
	stream *istiod.Transport // nil until it is connected to an agent
	health *istiod.Health    // nil where no probe is configured
}

// plane reads who the workload is, and completes the flags that depend on it.
// It is nil without --istiod.
func (f *sidecarFlags) plane(fs *pflag.FlagSet) (*controlPlane, error) {
	i := &f.istiod
	if i.address == "" {
		return nil, f.withoutIstiod(fs)
	}
	for _, name := range []string{"config", "mtls", "outbound", "access-log"} {
		if fs.Changed(name) {
			return nil, &usageError{fmt.Errorf("--%s has no place beside --istiod, which says that itself", name)}
		}
	}
	if i.nodeType != "sidecar" {
		return nil, &usageError{fmt.Errorf("--node-type %q: only a sidecar is supported", i.nodeType)}
	}
	n, err := node.Read(f.nodeSource())
	if err != nil {
		return nil, &usageError{err}
	}
	if i.address == fromProxyConfig {
		i.address = n.Proxy.GetDiscoveryAddress()
	}
	if i.serverName, err = serverName(i.serverName, i.address); err != nil {
		return nil, &usageError{err}
	}
	p := &controlPlane{flags: i, node: n}
	if p.health, err = healthOf(n); err != nil {
		return nil, &usageError{err}
	}
	f.followIstiod(fs)
	return p, f.drainAsIstio(fs, n)
}

// withoutIstiod refuses flags that say something to istiod.
func (f *sidecarFlags) withoutIstiod(fs *pflag.FlagSet) error {
	for _, name := range []string{"istiod-server-name", "istiod-root-cert", "istio-version", "domain", "node-type", "pod-labels", "pod-annotations", "mesh-config", "dns-capture", "dns-resolv-conf", "xds-cache"} {
		if fs.Changed(name) {
			return &usageError{fmt.Errorf("--%s is for --istiod", name)}
		}
	}
	return nil
}

// serverName is what istiod's certificate must have (Istio: the discovery
// address's host, but for one that no certificate has).
func serverName(said, address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--istiod %q: it is host:port: %w", address, err)
	}
	if _, err := netip.ParseAddr(host); said == "" && err != nil && host != "localhost" {
		said = host
	}
	return cmp.Or(said, istiodName), nil
}

func (f *sidecarFlags) nodeSource() node.Source {
	i := &f.istiod
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := i.serverName
	if name == "" {
		name, _ = serverName("", i.address) // a mistake is told later
	}
	return node.Source{
		Environ: os.Environ(), Labels: i.labels, Annotations: i.annotations, MeshConfig: i.mesh,
		Pod: env("POD_NAME", host), Namespace: f.agent.namespace, ServiceAccount: f.agent.account,
		Domain: i.domain, ClusterID: f.agent.clusterID, IstioVersion: i.version, Interception: f.interception,
		ServerName: name, DNSCapture: i.dnsCapture, Addresses: ownAddresses(),
	}
}

// ownAddresses are the machine's that others can reach.
func ownAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // it is known by 127.0.0.1 then, or by INSTANCE_IP
	}
	var out []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() }) // IPv4 first
	return out
}

// followIstiod has certificates come from istiod too, unless another authority
// is named.
func (f *sidecarFlags) followIstiod(fs *pflag.FlagSet) {
	if fs.Changed("ca-addr") || os.Getenv("CA_ADDR") != "" {
		return
	}
	f.agent.caAddr = f.istiod.address
	if f.agent.caServerName == "" {
		f.agent.caServerName = f.istiod.serverName
	}
	if f.istiod.root != "" && !fs.Changed("ca-root-cert") && os.Getenv("CA_ROOT_CA") == "" {
		f.agent.caRoot = f.istiod.root
	}
	f.agent.clusterID = cmp.Or(f.agent.clusterID, "Kubernetes")
}

// drainAsIstio takes from the environment how Istio's agent would end, where no
// flag says so.
func (f *sidecarFlags) drainAsIstio(fs *pflag.FlagSet, n *node.Node) error {
	unsaid := func(flag string) bool { return !fs.Changed(flag) }
	if unsaid("drain-time-s") && n.Said["terminationDrainDuration"] {
		f.drainTimeS = uint32(n.Proxy.GetTerminationDrainDuration().AsDuration() / time.Second)
	}
	if text := os.Getenv("TERMINATION_DRAIN_DURATION_SECONDS"); text != "" && unsaid("drain-time-s") {
		seconds, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return &usageError{fmt.Errorf("TERMINATION_DRAIN_DURATION_SECONDS: %w", err)}
		}
		f.drainTimeS = uint32(seconds)
	}
	if text := os.Getenv("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"); text != "" && unsaid("exit-on-zero-connections") {
		exit, err := strconv.ParseBool(text)
		if err != nil {
			return &usageError{fmt.Errorf("EXIT_ON_ZERO_ACTIVE_CONNECTIONS: %w", err)}
		}
		if f.lifecycle.exitOnZero = exit; !exit {
			f.lifecycle.minDrainS = 0
		}
	}
	if text := os.Getenv("MINIMUM_DRAIN_DURATION"); text != "" && unsaid("minimum-drain-time-s") && f.lifecycle.exitOnZero {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return &usageError{fmt.Errorf("MINIMUM_DRAIN_DURATION %q: it is a time", text)}
		}
		f.lifecycle.minDrainS = uint32(d / time.Second)
	}
	return nil
}

// bootstrapOr is what the proxy begins with; without a control plane it is the
// short file's.
func (p *controlPlane) bootstrapOr(c *sidecar.Config, all bool) (*bootstrapv3.Bootstrap, error) {
	if p == nil {
		return c.Bootstrap(all)
	}
	return sidecar.IstiodBootstrap(p.node.Proto, sidecar.IstioStats(p.node.Stats()), all)
}

// connect makes the stream, whose proof is the token and the agent's
// certificate, as they are when it is opened.
func (p *controlPlane) connect(f *agentFlags, a *agent.Agent, cfg *sidecar.Config) error {
	id, err := cfg.ID()
	if err != nil {
		return err
	}
	trust := csr.Trust{Bundle: func() []*x509.Certificate { return a.Keeper().Trusted(id.TrustDomain()) }} // istiod rotates its own root, too
	switch root := cmp.Or(p.flags.root, f.caRoot); {
	case root == "SYSTEM":
		trust.System = true
	case p.flags.root == "" && len(f.caPins) > 0:
		if trust, err = f.trust(); err != nil {
			return err
		}
	default:
		trust.RootFile = root
	}
	p.stream, err = istiod.New(csr.Options{
		Address: p.flags.address, ServerName: p.flags.serverName, Trust: trust, TokenPath: f.tokenPath,
		Certificate: func() (*tls.Certificate, error) { return certificateOf(a.Secret) },
		ClusterID:   f.clusterID,
	})
	return err
}

// resolvConfInstead is what Istio's agent reads in place of /etc/resolv.conf
// where it stands in for the host's resolver, on port 53.
const resolvConfInstead = "/var/lib/istio/resolv.conf"

// dnsOptions are how DNS is answered, nil where it is not captured.
func (p *controlPlane) dnsOptions() (*dns.Options, error) {
	if !p.node.DNSCapture {
		return nil, nil
	}
	o := &dns.Options{Namespace: p.node.Namespace, Domain: p.node.Domain, ResolvConf: p.flags.resolvConf}
	if address := os.Getenv("DNS_PROXY_ADDR"); address != "" {
		o.Listen = []string{address}
		o.ForwardBeforeTable = strings.HasSuffix(address, ":53")
	}
	if _, err := os.Stat(resolvConfInstead); o.ResolvConf == "" && o.ForwardBeforeTable && err == nil {
		o.ResolvConf = resolvConfInstead
	}
	if text := os.Getenv("DNS_FORWARD_TIMEOUT"); text != "" {
		var err error
		if o.Timeout, err = time.ParseDuration(text); err != nil || o.Timeout <= 0 {
			return nil, &usageError{fmt.Errorf("DNS_FORWARD_TIMEOUT %q: it is a time", text)}
		}
	}
	return o, nil
}

// run does what goes on beside the stream, until ctx ends.
func (p *controlPlane) run(ctx context.Context, log *slog.Logger) {
	for _, note := range p.node.Notes {
		log.Warn(note)
	}
	if p.health != nil {
		p.health.Log = log
		p.health.Run(ctx, p.stream.Report)
	}
}

// healthOf is how the ProxyConfig has the application's health looked at; nil
// if it does not.
func healthOf(n *node.Node) (*istiod.Health, error) {
	r := n.Proxy.GetReadinessProbe()
	if r == nil {
		return nil, nil
	}
	probe, err := probeOf(r)
	if err != nil {
		return nil, fmt.Errorf("proxy config: readinessProbe: %w", err)
	}
	seconds := func(n, otherwise int32) time.Duration { return time.Duration(cmp.Or(n, otherwise)) * time.Second }
	return &istiod.Health{
		Check: probe.Check,
		Delay: seconds(r.GetInitialDelaySeconds(), 0), Timeout: seconds(r.GetTimeoutSeconds(), 1), Period: seconds(r.GetPeriodSeconds(), 10),
		Successes: int(cmp.Or(r.GetSuccessThreshold(), 1)), Failures: int(cmp.Or(r.GetFailureThreshold(), 1)),
	}, nil
}

// probeOf is a readiness probe of Istio's as the sidecar makes it, to this host.
func probeOf(r *networking.ReadinessProbe) (*sidecar.Probe, error) {
	port := func(n uint32) (uint16, error) {
		if n == 0 || n > 65535 {
			return 0, fmt.Errorf("port %d is none", n)
		}
		return uint16(n), nil
	}
	p := &sidecar.Probe{}
	var err error
	switch {
	case r.GetHttpGet() != nil:
		g := r.GetHttpGet()
		p.HTTPGet = &sidecar.HTTPGet{Path: cmp.Or(g.GetPath(), "/"), Scheme: g.GetScheme(), Host: g.GetHost(), Headers: map[string]string{}}
		for _, h := range g.GetHttpHeaders() {
			p.HTTPGet.Headers[h.GetName()] = h.GetValue()
		}
		p.HTTPGet.Port, err = port(g.GetPort())
	case r.GetTcpSocket() != nil:
		p.TCPSocket = &sidecar.TCPSocket{}
		p.TCPSocket.Port, err = port(r.GetTcpSocket().GetPort())
	case r.GetGrpc() != nil:
		p.GRPC = &sidecar.GRPC{Service: r.GetGrpc().GetService()}
		p.GRPC.Port, err = port(r.GetGrpc().GetPort())
	default:
		return nil, errors.New("only httpGet, tcpSocket and grpc are supported")
	}
	return p, err
}
