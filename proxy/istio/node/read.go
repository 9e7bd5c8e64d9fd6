package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// The prefixes of variables that become metadata: the value as it is, or an
// object whose members do.
const (
	metaPrefix     = "ISTIO_META_"
	metaJSONPrefix = "ISTIO_METAJSON_"
)

// extract reads the variables that become metadata. Those of the proxy's
// configuration come first.
func (r *reader) extract() {
	for name, value := range r.node.Proxy.GetProxyMetadata() {
		if key, ok := strings.CutPrefix(name, metaPrefix); ok {
			r.metadata[key] = value
		}
	}
	for name, value := range r.env {
		if key, ok := strings.CutPrefix(name, metaPrefix); ok {
			r.metadata[key] = value
		}
	}
	for name, value := range r.env {
		if !strings.HasPrefix(name, metaJSONPrefix) {
			continue
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(value), &members); err != nil {
			r.wrong(fmt.Errorf("%s is no JSON object: %w", name, err))
			continue
		}
		maps.Copy(r.metadata, members)
	}
	if text := r.env[metaJSONPrefix+"LABELS"]; text != "" {
		if err := json.Unmarshal([]byte(text), &r.static); err != nil {
			r.wrong(fmt.Errorf("%sLABELS: %w", metaJSONPrefix, err))
		}
	}
	if address := r.env["DNS_PROXY_ADDR"]; address != "" {
		r.metadata["DNS_PROXY_ADDR"] = address
	}
}

// templateHash is the label that tells replica sets apart, which is nobody's
// business.
const templateHash = "pod-template-hash"

// readLabels are the pod's labels, over those of the environment.
func (r *reader) readLabels() {
	pod, err := readDownward(r.source.Labels)
	r.wrong(err)
	r.labels = maps.Clone(r.static)
	if r.labels == nil {
		r.labels = map[string]string{}
	}
	maps.Copy(r.labels, pod)
	delete(r.labels, templateHash)
}

// The labels that say where a workload is. The second one is the older.
const (
	localityLabel    = "topology.istio.io/locality"
	oldLocalityLabel = "istio-locality"
)

// locality is region/zone/subzone of the labels, where dots may stand for
// slashes, which Kubernetes does not take.
func (r *reader) locality() *corev3.Locality {
	text := r.labels[localityLabel]
	if text == "" {
		text = r.labels[oldLocalityLabel]
	}
	if text == "" {
		return nil
	}
	if !strings.Contains(text, "/") {
		text = strings.ReplaceAll(text, ".", "/")
	}
	r.labels[oldLocalityLabel] = text
	parts := append(strings.SplitN(text, "/", 3), "", "")
	return &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

// readDownward reads a file of the downward API.
func readDownward(path string) (map[string]string, error) {
	text, err := readFile(path)
	if err != nil || text == nil {
		return nil, err
	}
	out, err := parseDownward(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// readFile reads a file; nil is one that is not there.
func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// parseDownward reads the downward API's lines, key="value" with the value
// quoted as Go does it.
func parseDownward(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		key, quoted, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		if !ok {
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("the value of %q, %s: %w", key, quoted, err)
		}
		out[key] = value
	}
	return out, nil
}
