package inject

import (
	"cmp"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// workload is what a pod belongs to.
type workload struct{ apiVersion, kind, name string }

// The labels by which istiod knows a pod with a sidecar, and its service.
const (
	tlsModeLabel   = "security.istio.io/tlsMode"
	canonicalLabel = "service.istio.io/canonical-name"
	revisionLabel  = "service.istio.io/canonical-revision"
)

// label sets the labels by which istiod tells others that the pod speaks mTLS,
// and by which metrics call it; those that are there stay.
func (p *podOf) label(pod *yaml.Node) {
	labels := func(name string) string { return text(pod, "metadata", "labels", name) }
	for _, l := range [][2]string{
		{tlsModeLabel, "istio"},
		{canonicalLabel, cmp.Or(labels("app.kubernetes.io/name"), labels("app"), p.of.name)},
		{revisionLabel, cmp.Or(labels("app.kubernetes.io/version"), labels("version"), "latest")},
	} {
		if labels(l[0]) == "" && l[1] != "" {
			setText(pod, l[1], "metadata", "labels", l[0])
		}
	}
}

// istiodArgs are the sidecar's, where istiod configures it.
func (p *podOf) istiodArgs() l {
	return l{"--istiod", p.opts.Istiod, "--pod-labels", podInfo + "/labels", "--pod-annotations", podInfo + "/annotations"}
}

// podInfo is where the pod's own labels and annotations are.
const podInfo = "/etc/istio/pod"

// istiodEnv is what istiod wants to know and the pod's files do not say
// (Istio's injection: the same names).
func (p *podOf) istiodEnv() l {
	env := l{
		field("ISTIO_META_NODE_NAME", "spec.nodeName"),
		m{"name": "ISTIO_META_INTERCEPTION_MODE", "value": cmp.Or(p.annotations[interceptAnnotation], "REDIRECT")},
		m{"name": "ISTIO_META_MESH_ID", "value": p.opts.TrustDomain},
	}
	if p.of.name == "" { // a pod of generateName
		return env
	}
	plural := strings.ToLower(p.of.kind) + "s"
	owner := fmt.Sprintf("kubernetes://apis/%s/namespaces/$(POD_NAMESPACE)/%s/%s", p.of.apiVersion, plural, p.of.name)
	return append(env, m{"name": "ISTIO_META_WORKLOAD_NAME", "value": p.of.name}, m{"name": "ISTIO_META_OWNER", "value": owner})
}

// podInfoVolume has the pod's labels and annotations, as they are now.
func podInfoVolume() m {
	item := func(name string) m {
		return m{"path": name, "fieldRef": m{"fieldPath": "metadata." + name}}
	}
	return m{"name": "outrider-podinfo", "downwardAPI": m{"items": l{item("labels"), item("annotations")}}}
}
