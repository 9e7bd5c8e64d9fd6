// Package node says to istiod who a workload is: the node of its requests, from
// the environment and the files that Istio's injection gives a sidecar.
package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// Version is the ISTIO_VERSION of a node that is told no other: the newest
// whose configuration is known to be understood. istiod chooses by it what a
// proxy can be sent.
const Version = "1.31.0"

// Where the downward API and Istio's injection put a pod's own description.
const (
	LabelsPath      = "./etc/istio/pod/labels"
	AnnotationsPath = "./etc/istio/pod/annotations"
	MeshConfigPath  = "./etc/istio/config/mesh"
)

// The ports of the sidecar that istiod is told of.
const (
	statusPort     = 15021
	prometheusPort = 15090
)

// Source is where a node is read from. A file of "" or that is not there says
// nothing.
type Source struct {
	Environ                         []string // as os.Environ has it
	Labels, Annotations, MeshConfig string   // files
	Pod, Namespace, ServiceAccount  string
	Domain                          string // "" is NAMESPACE.svc.cluster.local
	ClusterID                       string // "" is ISTIO_META_CLUSTER_ID
	IstioVersion                    string // "" is ISTIO_META_ISTIO_VERSION, else Version
	Interception                    string // "" is ISTIO_META_INTERCEPTION_MODE, or the ProxyConfig's
	ServerName                      string // istiod's, for PILOT_SAN
	DNSCapture                      bool   // also if ISTIO_META_DNS_CAPTURE says so
	// Addresses are the machine's. INSTANCE_IP goes before them.
	Addresses []netip.Addr
}

// Node is what is known of a workload.
type Node struct {
	// Proto goes out in requests.
	Proto *corev3.Node
	// Proxy is the effective ProxyConfig: Istio's defaults, under the mesh
	// config's file, under PROXY_CONFIG, under the annotation
	// proxy.istio.io/config.
	Proxy *mesh.ProxyConfig
	// Said has the fields of Proxy that something has set; by their JSON names.
	Said        map[string]bool
	Annotations map[string]string
	// Addresses are the workload's own, the first the one that it is known by.
	Addresses []netip.Addr
	// Namespace and Domain are the workload's.
	Namespace, Domain string
	// DNSCapture says that DNS is the sidecar's part.
	DNSCapture bool
	// Notes are what was given and is not passed on, for the log.
	Notes []string
}

// Read reads a node. Its error names everything that is wrong.
func Read(s Source) (*Node, error) {
	r := reader{source: s, metadata: map[string]any{}}
	n := r.read()
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return n, nil
}

// reader collects what a node is made of.
type reader struct {
	source      Source
	env         map[string]string
	annotations map[string]string
	labels      map[string]string
	static      map[string]string // labels of the environment
	metadata    map[string]any
	node        Node
	errs        []error
}

func (r *reader) wrong(err error) {
	if err != nil {
		r.errs = append(r.errs, err)
	}
}

func (r *reader) read() *Node {
	r.env = map[string]string{}
	for _, e := range r.source.Environ {
		name, value, _ := strings.Cut(e, "=")
		r.env[name] = value
	}
	var err error
	r.annotations, err = readDownward(r.source.Annotations)
	r.wrong(err)
	r.readProxy()
	r.extract()
	r.readLabels()
	if len(r.errs) > 0 {
		return nil
	}
	n := &r.node
	n.Annotations = r.annotations
	r.addresses()
	locality := r.locality()
	r.computed()
	metadata, err := r.pack()
	if err != nil {
		r.wrong(fmt.Errorf("node metadata: %w", err))
		return nil
	}
	s := r.source
	n.Namespace, n.Domain = s.Namespace, cmp.Or(s.Domain, s.Namespace+".svc.cluster.local")
	n.Proto = &corev3.Node{
		Id:      fmt.Sprintf("sidecar~%s~%s.%s~%s", n.Addresses[0], s.Pod, s.Namespace, n.Domain),
		Cluster: r.cluster(), Metadata: metadata, Locality: locality,
	}
	return n
}

// addresses are INSTANCE_IP's, which istiod takes for the pod's, and the
// machine's.
func (r *reader) addresses() {
	all := r.source.Addresses
	if text := r.env["INSTANCE_IP"]; text != "" {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			r.wrong(fmt.Errorf("INSTANCE_IP: %w", err))
		} else {
			all = append([]netip.Addr{ip}, all...)
		}
	}
	var out []netip.Addr
	for _, ip := range all {
		if !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		out = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	r.node.Addresses = out
}

// computed sets the metadata that have values of their own; what the
// environment says of the same names does not count (Istio's agent: the same).
func (r *reader) computed() {
	s, m, n := r.source, r.metadata, &r.node
	var ips []string
	for _, ip := range n.Addresses {
		ips = append(ips, ip.String())
	}
	m["NAME"], m["NAMESPACE"], m["SERVICE_ACCOUNT"] = s.Pod, s.Namespace, s.ServiceAccount
	m["INSTANCE_IPS"] = strings.Join(ips, ",")
	m["ENVOY_STATUS_PORT"], m["ENVOY_PROMETHEUS_PORT"] = statusPort, prometheusPort
	if s.ServerName != "" {
		m["PILOT_SAN"] = []any{s.ServerName}
	}
	if r.env["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] == "true" {
		m["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] = "true"
	}
	r.or("ISTIO_VERSION", s.IstioVersion, Version)
	r.or("CLUSTER_ID", s.ClusterID, "Kubernetes")
	r.or("INTERCEPTION_MODE", s.Interception, n.Proxy.GetInterceptionMode().String())
	if s.DNSCapture {
		m["DNS_CAPTURE"] = "true"
	}
	n.DNSCapture = m["DNS_CAPTURE"] == "true"
	for key, value := range map[string]map[string]string{"LABELS": r.labels, "STATIC_LABELS": r.static, "ANNOTATIONS": r.annotations} {
		if len(value) > 0 {
			m[key] = value
		}
	}
	if m["GENERATOR"] == "grpc" {
		r.wrong(errors.New(`ISTIO_META_GENERATOR "grpc": that is for applications without a sidecar`))
	}
	if text := r.annotations[bucketsAnnotation]; text != "" {
		n.Notes = append(n.Notes, fmt.Sprintf("annotation %s=%s has no effect: buckets are Envoy's own", bucketsAnnotation, text))
	}
	for _, key := range []string{"ENABLE_HBONE", "METADATA_DISCOVERY", "ENABLE_SELF_DISCOVERY"} {
		if value, ok := m[key]; ok {
			delete(m, key)
			n.Notes = append(n.Notes, fmt.Sprintf("ISTIO_META_%s=%v is not told to istiod: outrider cannot do what it would send", key, value))
		}
	}
}

// or sets what is said, else leaves what the environment said, else sets the
// default.
func (r *reader) or(key, said, otherwise string) {
	if said != "" {
		r.metadata[key] = said
	} else if r.metadata[key] == nil || r.metadata[key] == "" {
		r.metadata[key] = otherwise
	}
}

// pack is the metadata as a message.
func (r *reader) pack() (*structpb.Struct, error) {
	proxy, err := protojson.Marshal(r.node.Proxy)
	if err != nil {
		return nil, err
	}
	r.metadata["PROXY_CONFIG"] = json.RawMessage(proxy)
	text, err := json.Marshal(r.metadata)
	if err != nil {
		return nil, err
	}
	out := &structpb.Struct{}
	return out, protojson.Unmarshal(text, out)
}

// cluster is node.cluster (Istio: getServiceCluster).
func (r *reader) cluster() string {
	workload, _ := r.metadata["WORKLOAD_NAME"].(string)
	ns := r.source.Namespace
	canonical := cmp.Or(r.labels["service.istio.io/canonical-name"], r.labels["app.kubernetes.io/name"], r.labels["app"], workload, "istio-proxy")
	name := r.node.Proxy.GetServiceCluster()
	if t, ok := r.node.Proxy.GetClusterName().(*mesh.ProxyConfig_TracingServiceName_); ok {
		switch t.TracingServiceName {
		case mesh.ProxyConfig_CANONICAL_NAME_ONLY:
			name = canonical
		case mesh.ProxyConfig_CANONICAL_NAME_AND_NAMESPACE:
			return canonical + "." + ns
		}
	}
	if name != "" && name != defaultCluster {
		return name
	}
	return cmp.Or(r.labels["app"], r.labels["app.kubernetes.io/name"], workload, defaultCluster) + "." + ns
}
