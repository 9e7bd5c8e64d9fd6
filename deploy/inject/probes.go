package inject

import (
	"encoding/json"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Prober is one of the application's probes as the sidecar is told of it, in
// ISTIO_KUBE_APP_PROBERS (Istio: status.Prober).
type Prober struct {
	HTTPGet        *HTTPGet   `json:"httpGet,omitempty"`
	TCPSocket      *TCPSocket `json:"tcpSocket,omitempty"`
	GRPC           *GRPC      `json:"grpc,omitempty"`
	TimeoutSeconds int        `json:"timeoutSeconds,omitempty"`
}

// HTTPGet is a Kubernetes HTTPGetAction with its port as a number.
type HTTPGet struct {
	Path        string   `json:"path,omitempty"`
	Port        int      `json:"port"`
	Host        string   `json:"host,omitempty"`
	Scheme      string   `json:"scheme,omitempty"`
	HTTPHeaders []Header `json:"httpHeaders,omitempty"`
}

// Header is a Kubernetes HTTPHeader.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TCPSocket is a Kubernetes TCPSocketAction.
type TCPSocket struct {
	Port int    `json:"port"`
	Host string `json:"host,omitempty"`
}

// GRPC is a Kubernetes GRPCAction.
type GRPC struct {
	Port    int    `json:"port"`
	Service string `json:"service,omitempty"`
}

// probeKinds are the fields of a container with a probe, and the ends of their
// paths (Istio's).
func probeKinds() [][2]string {
	return [][2]string{{"livenessProbe", "livez"}, {"readinessProbe", "readyz"}, {"startupProbe", "startupz"}}
}

// rewriteProbes has the kubelet ask the sidecar, for it has no certificate to
// show to a STRICT port. It returns what the sidecar must know, "" for nothing.
func (p *podOf) rewriteProbes() (string, error) {
	if p.annotations[rewriteAnnotation] == "false" {
		return "", nil
	}
	probers := map[string]*Prober{}
	for _, field := range []string{"containers", "initContainers"} {
		for _, c := range items(p.spec, field) {
			for _, kind := range probeKinds() {
				path := "/app-health/" + text(c, "name") + "/" + kind[1]
				prober, err := rewriteProbe(c, find(c, kind[0]), path)
				if err != nil {
					return "", fmt.Errorf("container %q, %s: %w", text(c, "name"), kind[0], err)
				}
				if prober != nil {
					probers[path] = prober
				}
			}
		}
	}
	if len(probers) == 0 {
		return "", nil
	}
	out, err := json.Marshal(probers)
	return string(out), err
}

// rewriteProbe makes one probe ask the sidecar at path. It returns what was
// asked before; nil for a probe that does not use the network.
func rewriteProbe(container, probe *yaml.Node, path string) (*Prober, error) {
	for i := 0; probe != nil && i+1 < len(probe.Content); i += 2 {
		key, action := probe.Content[i], probe.Content[i+1]
		prober := &Prober{}
		switch key.Value {
		case "httpGet":
			prober.HTTPGet = &HTTPGet{Path: text(action, "path"), Host: text(action, "host"), Scheme: text(action, "scheme")}
			for _, h := range items(action, "httpHeaders") {
				prober.HTTPGet.HTTPHeaders = append(prober.HTTPGet.HTTPHeaders, Header{text(h, "name"), text(h, "value")})
			}
		case "tcpSocket":
			prober.TCPSocket = &TCPSocket{Host: text(action, "host")}
		case "grpc":
			prober.GRPC = &GRPC{Service: text(action, "service")}
		default:
			continue
		}
		port, err := portNumber(container, text(action, "port"))
		if err != nil {
			return nil, err
		}
		prober.setPort(port)
		prober.TimeoutSeconds, _ = strconv.Atoi(text(probe, "timeoutSeconds")) // absent is 0, which is the default
		asked, err := node(m{"path": path, "port": statusPort})
		if err != nil {
			return nil, err
		}
		key.Value, *action = "httpGet", *asked
		return prober, nil
	}
	return nil, nil
}

func (p *Prober) setPort(port int) {
	switch {
	case p.HTTPGet != nil:
		p.HTTPGet.Port = port
	case p.TCPSocket != nil:
		p.TCPSocket.Port = port
	default:
		p.GRPC.Port = port
	}
}

// portNumber is a container's port by its number or its name.
func portNumber(container *yaml.Node, port string) (int, error) {
	if n, err := strconv.Atoi(port); err == nil && n > 0 && n < 1<<16 {
		return n, nil
	}
	for _, p := range items(container, "ports") {
		if text(p, "name") == port {
			return portNumber(&yaml.Node{}, text(p, "containerPort"))
		}
	}
	return 0, fmt.Errorf("port %q is none of the container's", port)
}
