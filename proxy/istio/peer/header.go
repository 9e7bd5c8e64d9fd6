package peer

import (
	"encoding/base64"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxHeader bounds what a peer can have us decode, in bytes of the header.
// Envoy has no limit; what Istio's proxies send is below 4 KiB.
const maxHeader = 16 << 10

// maxDepth is protobuf's own limit of nesting in C++, which is Envoy's.
const maxDepth = 100

// Header is the workload as the header x-envoy-peer-metadata.
func (w *Workload) Header() (string, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(w.Struct())
	if err != nil {
		return "", fmt.Errorf("peer metadata: %w", err)
	}
	if n := base64.StdEncoding.EncodedLen(len(b)); n > maxHeader {
		return "", fmt.Errorf("peer metadata of the node: %d bytes, the limit is %d", n, maxHeader)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// FromHeader reads the header x-envoy-peer-metadata. Padding may be missing, as
// in Envoy.
func FromHeader(value string, additional []string) (Workload, error) {
	if len(value) > maxHeader {
		return Workload{}, fmt.Errorf("peer metadata: %d bytes, the limit is %d", len(value), maxHeader)
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return Workload{}, fmt.Errorf("peer metadata: %w", err)
	}
	s := &structpb.Struct{}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(b, s); err != nil {
		return Workload{}, fmt.Errorf("peer metadata: %w", err)
	}
	return FromStruct(s, additional), nil
}

// FromEndpoint reads what the control plane says of an endpoint (metadata
// istio: {workload: ...}): workload;namespace;service;revision;cluster.
func FromEndpoint(text string) (Workload, bool) {
	parts := strings.Split(text, ";")
	if len(parts) < 5 {
		return Workload{}, false
	}
	return Workload{
		Name: parts[0], Namespace: parts[1], CanonicalName: parts[2], CanonicalRevision: parts[3], Cluster: parts[4],
	}, true
}

// The keys of baggage, and the field of each.
func (w *Workload) baggageField(key string) *string {
	switch key {
	case "k8s.namespace.name":
		return &w.Namespace
	case "k8s.cluster.name":
		return &w.Cluster
	case "k8s.instance.name":
		return &w.Instance
	case "cloud.region":
		return &w.Region
	case "cloud.availability_zone":
		return &w.Zone
	}
	return nil
}

// Baggage is the workload as a header baggage.
func (w *Workload) Baggage() string {
	var parts []string
	add := func(key, value string) {
		if value != "" {
			parts = append(parts, key+"="+value)
		}
	}
	kind := w.Kind
	if kind == "" {
		kind = "pod"
	}
	add("k8s."+kind+".name", w.Name)
	// Envoy's fallbacks from the service to the application never apply, for
	// there an empty name is a name.
	add("service.name", w.CanonicalName)
	if w.App != w.CanonicalName {
		add("app.name", w.App)
	}
	add("service.version", w.CanonicalRevision)
	if w.Version != w.CanonicalRevision {
		add("app.version", w.Version)
	}
	add("k8s.namespace.name", w.Namespace)
	add("k8s.cluster.name", w.Cluster)
	add("k8s.instance.name", w.Instance)
	add("cloud.region", w.Region)
	add("cloud.availability_zone", w.Zone)
	return strings.Join(parts, ",")
}

// FromBaggage reads a header baggage. A name of the service is the
// application's too where that has none, and the reverse.
func FromBaggage(value string) Workload {
	var w Workload
	if len(value) > maxHeader {
		return w
	}
	for property := range strings.SplitSeq(value, ",") {
		key, v, _ := strings.Cut(property, "=")
		v, _, _ = strings.Cut(v, "=")
		w.takeBaggage(key, fact(v))
	}
	return w
}

func (w *Workload) takeBaggage(key, v string) {
	orIfEmpty := func(field *string) {
		if *field == "" {
			*field = v
		}
	}
	switch key {
	case "service.name":
		w.CanonicalName = v
		orIfEmpty(&w.App)
	case "service.version":
		w.CanonicalRevision = v
		orIfEmpty(&w.Version)
	case "app.name":
		w.App = v
		orIfEmpty(&w.CanonicalName)
	case "app.version":
		w.Version = v
		orIfEmpty(&w.CanonicalRevision)
	case "k8s.deployment.name", "k8s.pod.name", "k8s.cronjob.name", "k8s.job.name":
		w.Name = v
		w.Kind = strings.TrimSuffix(strings.TrimPrefix(key, "k8s."), ".name")
	default:
		if field := w.baggageField(key); field != nil {
			*field = v
		}
	}
}
