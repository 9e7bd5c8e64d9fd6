// Package inject adds the sidecar to Kubernetes manifests: an init container
// that makes the redirection, and the sidecar itself. What it does not touch
// keeps its order and its comments.
package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Options are what the manifests do not say.
type Options struct {
	// Image is the outrider image.
	Image string
	// Native makes the sidecar an init container that stays (Kubernetes 1.29
	// and later); else it is a container beside the application's.
	Native bool
	// CAAddress is the authority, host:port.
	CAAddress string
	// Istiod, host:port, configures the sidecars in place of a short file; ""
	// has no part in them. Certificates come from CAAddress all the same.
	Istiod string
	// RootConfigMap is the config map in each namespace that has the
	// authority's root as root-cert.pem.
	RootConfigMap string
	// ConfigMap is the config map with the sidecar's short file, as
	// sidecar.yaml; "" is none. A pod's annotation may name another.
	ConfigMap   string
	TrustDomain string
	ClusterID   string
	// IptablesFlags are further flags for outrider iptables, which makes the
	// redirection.
	IptablesFlags []string
}

// The annotations of a pod that change what is done to it (Istio's names where
// Istio has one).
const (
	injectLabel         = "sidecar.istio.io/inject"
	configAnnotation    = "outrider.dev/config-map"
	statusAnnotation    = "outrider.dev/injected"
	rewriteAnnotation   = "sidecar.istio.io/rewriteAppHTTPProbers"
	interceptAnnotation = "sidecar.istio.io/interceptionMode"
)

// redirection are the annotations that become flags of outrider iptables.
func redirection() map[string]string {
	const prefix = "traffic.sidecar.istio.io/"
	return map[string]string{
		prefix + "includeInboundPorts":     "--istio-inbound-ports",
		prefix + "excludeInboundPorts":     "--istio-local-exclude-ports",
		prefix + "includeOutboundIPRanges": "--istio-service-cidr",
		prefix + "excludeOutboundIPRanges": "--istio-service-exclude-cidr",
		prefix + "includeOutboundPorts":    "--istio-outbound-ports",
		prefix + "excludeOutboundPorts":    "--istio-local-outbound-ports-exclude",
		prefix + "excludeInterfaces":       "--istio-exclude-interfaces",
		prefix + "kubevirtInterfaces":      "--kube-virt-interfaces",
	}
}

// Manifests reads documents of YAML or JSON from in and writes them to out, the
// pods in them injected. Documents that have no pod go through as they are. It
// returns what was done to each, for people.
func Manifests(in io.Reader, out io.Writer, o Options) ([]string, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	decoder := yaml.NewDecoder(in)
	var docs []*yaml.Node
	var done []string
	for i := 0; ; i++ {
		doc := &yaml.Node{}
		err := decoder.Decode(doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		said, err := o.document(doc)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		docs, done = append(docs, doc), append(done, said...)
	}
	if len(docs) == 0 {
		return nil, errors.New("there is no manifest in the input")
	}
	return done, write(out, docs)
}

// write is all or nothing: a manifest that is cut off could still be applied.
func write(out io.Writer, docs []*yaml.Node) error {
	var text bytes.Buffer
	e := yaml.NewEncoder(&text)
	e.SetIndent(2)
	for _, d := range docs {
		if err := e.Encode(d); err != nil {
			return err
		}
	}
	if err := e.Close(); err != nil {
		return err
	}
	_, err := out.Write(text.Bytes())
	return err
}

func (o *Options) check() error {
	var errs []error
	for name, value := range map[string]string{"image": o.Image, "CA address": o.CAAddress, "root config map": o.RootConfigMap, "trust domain": o.TrustDomain} {
		if value == "" {
			errs = append(errs, fmt.Errorf("the %s is needed", name))
		}
	}
	return errors.Join(errs...)
}

// podPaths are where each kind has its pod.
func podPaths() map[string][]string {
	template := []string{"spec", "template"}
	return map[string][]string{
		"Pod": {}, "Deployment": template, "StatefulSet": template, "DaemonSet": template, "ReplicaSet": template,
		"ReplicationController": template, "Job": template, "CronJob": {"spec", "jobTemplate", "spec", "template"},
	}
}

// document injects one document; a List's items each.
func (o *Options) document(doc *yaml.Node) ([]string, error) {
	root := doc
	if root.Kind == yaml.DocumentNode && len(root.Content) > 0 {
		root = root.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, nil
	}
	kind := text(root, "kind")
	if kind == "List" {
		return o.list(root)
	}
	path, ok := podPaths()[kind]
	if !ok {
		return nil, nil
	}
	what := kind + "/" + text(root, "metadata", "name")
	pod := find(root, path...)
	if pod == nil || find(pod, "spec") == nil {
		return nil, fmt.Errorf("%s has no pod", what)
	}
	said, err := o.pod(pod, workload{text(root, "apiVersion"), kind, text(root, "metadata", "name")})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return []string{what + ": " + said}, nil
}

func (o *Options) list(root *yaml.Node) ([]string, error) {
	var done []string
	for i, item := range items(root, "items") {
		said, err := o.document(item)
		if err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		done = append(done, said...)
	}
	return done, nil
}

// pod injects one pod or pod template of a workload.
func (o *Options) pod(pod *yaml.Node, of workload) (string, error) {
	annotations := annotationsOf(pod)
	spec := find(pod, "spec")
	switch {
	case annotations[injectLabel] == "false" || text(pod, "metadata", "labels", injectLabel) == "false":
		return "not injected: " + injectLabel + " is false", nil
	case text(spec, "hostNetwork") == "true":
		return "not injected: it uses the host's network, whose traffic is not redirected", nil
	case injected(spec):
		return "injected already, left as it is", nil
	}
	if err := conflicts(spec); err != nil {
		return "", err
	}
	p := podOf{opts: o, of: of, spec: spec, annotations: annotations}
	if o.Istiod != "" && p.configMap() != "" {
		return "", fmt.Errorf("it has a short file, config map %q, and istiod: only one can say what the sidecar does", p.configMap())
	}
	if err := p.inject(); err != nil {
		return "", err
	}
	if o.Istiod != "" {
		p.label(pod)
	}
	setText(pod, "true", "metadata", "annotations", statusAnnotation)
	return "injected", nil
}

func annotationsOf(pod *yaml.Node) map[string]string {
	out := map[string]string{}
	if a := find(pod, "metadata", "annotations"); a != nil {
		for i := 0; i+1 < len(a.Content); i += 2 {
			out[a.Content[i].Value] = a.Content[i+1].Value
		}
	}
	return out
}

// The names of what is added.
const (
	initName    = "outrider-init"
	sidecarName = "outrider"
)

func containerNames(spec *yaml.Node) []string {
	var out []string
	for _, field := range []string{"containers", "initContainers"} {
		for _, c := range items(spec, field) {
			out = append(out, text(c, "name"))
		}
	}
	return out
}

func injected(spec *yaml.Node) bool { return slices.Contains(containerNames(spec), sidecarName) }

// conflicts refuses what would not work beside the sidecar.
func conflicts(spec *yaml.Node) error {
	for _, name := range containerNames(spec) {
		if name == "istio-proxy" || name == "linkerd-proxy" {
			return fmt.Errorf("it has a sidecar already: container %q", name)
		}
	}
	for _, c := range items(spec, "containers") {
		if text(c, "securityContext", "runAsUser") == sidecarUID || text(spec, "securityContext", "runAsUser") == sidecarUID && find(c, "securityContext", "runAsUser") == nil {
			return fmt.Errorf("container %q runs as uid %s, which is the sidecar's: its traffic would pass by the sidecar", text(c, "name"), sidecarUID)
		}
	}
	return nil
}
