package inject

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// sidecarUID is who the sidecar runs as: the rules leave its traffic alone.
const sidecarUID = "1337"

// statusPort is where the sidecar answers for the application's probes.
const statusPort = 15020

// podOf is one pod while it is injected.
type podOf struct {
	opts        *Options
	of          workload
	spec        *yaml.Node
	annotations map[string]string
}

// m and l are YAML mappings and sequences; a map's keys come out sorted.
type (
	m = map[string]any
	l = []any
)

func (p *podOf) inject() error {
	probes, err := p.rewriteProbes()
	if err != nil {
		return err
	}
	sidecar := p.sidecar(probes)
	if p.opts.Native {
		sidecar["restartPolicy"] = "Always"
		err = prepend(p.spec, sidecar, "initContainers")
	} else {
		err = push(p.spec, sidecar, "containers")
	}
	if err != nil {
		return err
	}
	if err := prepend(p.spec, p.init(), "initContainers"); err != nil {
		return err
	}
	return p.volumes()
}

// init makes the redirection, with the one capability that it needs.
func (p *podOf) init() m {
	args := l{"iptables", "--proxy-uid", sidecarUID, "--proxy-gid", sidecarUID, "--istio-inbound-interception-mode", cmp.Or(p.annotations[interceptAnnotation], "REDIRECT")}
	given := map[string]string{
		"--istio-inbound-ports": "*", "--istio-service-cidr": "*",
		"--istio-local-exclude-ports": "15090,15021,15020",
	}
	flags := redirection()
	for annotation, value := range p.annotations {
		flag, ok := flags[annotation]
		switch {
		case !ok:
		case flag == "--istio-local-exclude-ports" && value != "":
			given[flag] += "," + value
		default:
			given[flag] = value
		}
	}
	for _, flag := range slices.Sorted(maps.Keys(given)) {
		args = append(args, flag, given[flag])
	}
	for _, flag := range p.opts.IptablesFlags {
		args = append(args, flag)
	}
	return m{
		"name": initName, "image": p.opts.Image, "args": args,
		"securityContext": m{
			"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": true,
			"allowPrivilegeEscalation": false, "privileged": false,
			"capabilities": m{"drop": l{"ALL"}, "add": l{"NET_ADMIN"}},
		},
		"resources": resources("10m", "16Mi"),
	}
}

func resources(cpu, memory string) m {
	return m{"requests": m{"cpu": cpu, "memory": memory}}
}

// sidecar is the proxy with its agent.
func (p *podOf) sidecar(probes string) m {
	args := l{
		"sidecar", "--ca-addr", p.opts.CAAddress, "--ca-root-cert", "/var/run/secrets/istio/root-cert.pem",
		"--token-path", "/var/run/secrets/tokens/istio-token", "--trust-domain", p.opts.TrustDomain,
	}
	if p.opts.ClusterID != "" {
		args = append(args, "--cluster-id", p.opts.ClusterID)
	}
	mounts := l{
		m{"name": "outrider-run", "mountPath": "/var/run/secrets/workload-spiffe-uds"},
		m{"name": "outrider-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true},
		m{"name": "outrider-root", "mountPath": "/var/run/secrets/istio", "readOnly": true},
	}
	if p.configMap() != "" {
		args = append(args, "--config", "/etc/outrider/sidecar.yaml")
		mounts = append(mounts, m{"name": "outrider-config", "mountPath": "/etc/outrider", "readOnly": true})
	}
	env := l{
		field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
		field("INSTANCE_IP", "status.podIP"), field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
	}
	if p.opts.Istiod != "" {
		args = append(args, p.istiodArgs()...)
		env = append(env, p.istiodEnv()...)
		mounts = append(mounts, m{"name": "outrider-podinfo", "mountPath": podInfo, "readOnly": true})
	}
	if probes != "" {
		env = append(env, m{"name": "ISTIO_KUBE_APP_PROBERS", "value": probes})
	}
	security := m{
		"runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
		"allowPrivilegeEscalation": false, "privileged": false, "capabilities": m{"drop": l{"ALL"}},
	}
	if p.annotations[interceptAnnotation] == "TPROXY" {
		// Transparent sockets need it, and a process that is not root gets it
		// from the file only: so it is root here, as Istio's is.
		security["runAsUser"], security["runAsNonRoot"] = 0, false
		security["capabilities"] = m{"drop": l{"ALL"}, "add": l{"NET_ADMIN"}}
		args = append(args, "--interception", "TPROXY")
	}
	ready := m{"httpGet": m{"path": "/healthz/ready", "port": 15021}}
	return m{
		"name": sidecarName, "image": p.opts.Image, "args": args, "env": env, "workingDir": "/",
		"ports":           l{m{"name": "health", "containerPort": 15021, "protocol": "TCP"}, m{"name": "metrics", "containerPort": statusPort, "protocol": "TCP"}},
		"startupProbe":    with(ready, m{"periodSeconds": 1, "failureThreshold": 600}),
		"readinessProbe":  with(ready, m{"periodSeconds": 15, "failureThreshold": 4, "timeoutSeconds": 3}),
		"securityContext": security, "resources": resources("20m", "32Mi"), "volumeMounts": mounts,
	}
}

func with(a, b m) m {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// field is an environment variable from the pod's own description.
func field(name, path string) m {
	return m{"name": name, "valueFrom": m{"fieldRef": m{"fieldPath": path}}}
}

func (p *podOf) configMap() string { return cmp.Or(p.annotations[configAnnotation], p.opts.ConfigMap) }

func (p *podOf) volumes() error {
	volumes := l{
		m{"name": "outrider-run", "emptyDir": m{"medium": "Memory"}},
		m{"name": "outrider-token", "projected": m{"sources": l{m{"serviceAccountToken": m{"path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200}}}}},
		m{"name": "outrider-root", "configMap": m{"name": p.opts.RootConfigMap}},
	}
	if name := p.configMap(); name != "" {
		volumes = append(volumes, m{"name": "outrider-config", "configMap": m{"name": name}})
	}
	if p.opts.Istiod != "" {
		volumes = append(volumes, podInfoVolume())
	}
	have := map[string]bool{}
	for _, v := range items(p.spec, "volumes") {
		have[text(v, "name")] = true
	}
	for _, v := range volumes {
		name := v.(m)["name"].(string)
		if have[name] {
			return fmt.Errorf("it has a volume %q already", name)
		}
		if err := push(p.spec, v, "volumes"); err != nil {
			return err
		}
	}
	// The token and the socket must be readable by the sidecar's group.
	if find(p.spec, "securityContext", "fsGroup") == nil {
		*ensure(p.spec, yaml.ScalarNode, "securityContext", "fsGroup") = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: sidecarUID}
	}
	return nil
}
