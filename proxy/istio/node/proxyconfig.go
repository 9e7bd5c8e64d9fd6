package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	mesh "istio.io/api/mesh/v1alpha1"
)

// defaultCluster is the service cluster of a proxy that is told no other.
const defaultCluster = "istio-proxy"

// The annotations of a pod that its sidecar's ProxyConfig is made of.
const (
	configAnnotation    = "proxy.istio.io/config"
	discoveryAnnotation = "sidecar.istio.io/discoveryAddress"
	statusAnnotation    = "status.sidecar.istio.io/port"
)

// defaults are Istio's of a ProxyConfig.
func defaults() *mesh.ProxyConfig {
	return &mesh.ProxyConfig{
		ConfigPath: "./etc/istio/proxy", BinaryPath: "/usr/local/bin/envoy",
		ClusterName:              &mesh.ProxyConfig_ServiceCluster{ServiceCluster: defaultCluster},
		DrainDuration:            durationpb.New(45 * time.Second),
		TerminationDrainDuration: durationpb.New(5 * time.Second),
		ProxyAdminPort:           15000, StatusPort: 15020, StatNameLength: 189,
		ControlPlaneAuthPolicy: mesh.AuthenticationPolicy_MUTUAL_TLS,
		DiscoveryAddress:       "istiod.istio-system.svc:15012",
	}
}

// readProxy makes the effective ProxyConfig.
func (r *reader) readProxy() {
	n := &r.node
	n.Proxy, n.Said = defaults(), map[string]bool{}
	text, err := readFile(r.source.MeshConfig)
	if err == nil && text != nil {
		if text, err = defaultConfigOf(text); err == nil {
			err = r.overlay(text)
		}
	}
	if err != nil {
		r.wrong(fmt.Errorf("mesh config %s: %w", r.source.MeshConfig, err))
	}
	if err := r.overlay([]byte(r.env["PROXY_CONFIG"])); err != nil {
		r.wrong(fmt.Errorf("PROXY_CONFIG: %w", err))
	}
	if err := r.overlay([]byte(r.annotations[configAnnotation])); err != nil {
		r.wrong(fmt.Errorf("annotation %s: %w", configAnnotation, err))
	}
	if address, ok := r.annotations[discoveryAnnotation]; ok {
		n.Proxy.DiscoveryAddress, n.Said["discoveryAddress"] = address, true
	}
	if text, ok := r.annotations[statusAnnotation]; ok {
		port, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			r.wrong(fmt.Errorf("annotation %s: %w", statusAnnotation, err))
		}
		n.Proxy.StatusPort = int32(port)
	}
	r.wrong(unsupported(n.Proxy))
}

// defaultConfigOf is defaultConfig of a mesh config, whose other fields are not
// for proxies.
func defaultConfigOf(text []byte) ([]byte, error) {
	var file struct {
		DefaultConfig yaml.Node `yaml:"defaultConfig"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	if file.DefaultConfig.IsZero() {
		return nil, nil
	}
	return yaml.Marshal(&file.DefaultConfig)
}

// overlay sets the fields that text has, YAML or JSON, in place of those before;
// the members of proxyMetadata stand for themselves.
func (r *reader) overlay(text []byte) error {
	var content any
	if err := yaml.Unmarshal(text, &content); err != nil || content == nil {
		return err
	}
	packed, err := json.Marshal(content)
	if err != nil {
		return err
	}
	over := &mesh.ProxyConfig{}
	if err := protojson.Unmarshal(packed, over); err != nil {
		return err
	}
	before := r.node.Proxy.GetProxyMetadata()
	base := r.node.Proxy.ProtoReflect()
	over.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		base.Set(f, v)
		r.node.Said[f.JSONName()] = true
		return true
	})
	for name, value := range before {
		if _, ok := r.node.Proxy.ProxyMetadata[name]; !ok {
			r.node.Proxy.ProxyMetadata[name] = value
		}
	}
	return nil
}

// unsupported names the fields that would have the proxy send to, or read from,
// what outrider does not.
func unsupported(c *mesh.ProxyConfig) error {
	var errs []error
	refuse := func(set bool, field string) {
		if set {
			errs = append(errs, fmt.Errorf("proxy config: %s is not supported", field))
		}
	}
	refuse(c.GetCustomConfigFile() != "", "customConfigFile")
	refuse(c.GetProxyBootstrapTemplatePath() != "", "proxyBootstrapTemplatePath")
	refuse(c.GetStatsdUdpAddress() != "", "statsdUdpAddress")
	refuse(c.GetEnvoyMetricsService().GetAddress() != "", "envoyMetricsService")
	refuse(c.GetEnvoyAccessLogService().GetAddress() != "", "envoyAccessLogService")
	refuse(c.GetPrivateKeyProvider() != nil, "privateKeyProvider")
	refuse(c.GetProxyAdminPort() != 15000, fmt.Sprintf("proxyAdminPort %d", c.GetProxyAdminPort()))
	refuse(c.GetStatusPort() != 15020, fmt.Sprintf("statusPort %d", c.GetStatusPort()))
	if t := c.GetTracing(); t != nil {
		f := t.ProtoReflect().WhichOneof(t.ProtoReflect().Descriptor().Oneofs().ByName("tracer"))
		if f != nil && proto.Size(t.ProtoReflect().Get(f).Message().Interface()) > 0 {
			refuse(true, "tracing."+f.JSONName())
		}
	}
	return errors.Join(errs...)
}
