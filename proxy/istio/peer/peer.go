// Package peer is what the workloads of an Istio mesh tell each other of
// themselves, in the forms in which it is sent: a google.protobuf.Struct in the
// frame of istio-peer-exchange, the same in the header x-envoy-peer-metadata,
// baggage, and the endpoint metadata of the control plane.
//
// What a peer says of itself is not verified by anything: it is good for
// telemetry, and for nothing else.
package peer

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"unique"

	"google.golang.org/protobuf/types/known/structpb"
)

// Names in the filter state. Envoy has the peer as DownstreamState or
// UpstreamState, and once more with ObjectSuffix; Istio's own proxies before
// 1.24 had it with WASMPrefix. NotFoundState says that there will be no peer.
const (
	DownstreamState = "downstream_peer"
	UpstreamState   = "upstream_peer"
	ObjectSuffix    = "_obj"
	WASMPrefix      = "wasm."
	NotFoundState   = "peer_not_found"
)

// The headers of requests and responses, which are the keys in a frame too.
const (
	MetadataHeader   = "x-envoy-peer-metadata"
	MetadataIDHeader = "x-envoy-peer-metadata-id"
)

const (
	ownerPrefix           = "kubernetes://apis/apps/v1/namespaces/"
	canonicalNameLabel    = "service.istio.io/canonical-name"
	canonicalVersionLabel = "service.istio.io/canonical-revision"
)

// Workload is what a proxy stands before. Source: Envoy's contrib/istio
// WorkloadMetadataObject. What is not known is "".
type Workload struct {
	Instance, Namespace, Name, Cluster, Identity string
	CanonicalName, CanonicalRevision             string
	App, Version                                 string
	Kind                                         string // pod, deployment, job, cronjob
	Region, Zone                                 string
	// Labels are those that were asked for, as a JSON object with sorted keys,
	// so that Workloads can be compared.
	Labels string
}

// Peer is a Workload at the other end. It is immutable.
type Peer struct {
	handle unique.Handle[Workload]
	text   func() string
}

// New is the peer that w describes.
func New(w Workload) *Peer {
	return &Peer{handle: unique.Make(w), text: sync.OnceValue(w.state)}
}

// Workload is what the peer said.
func (p *Peer) Workload() Workload { return p.handle.Value() }

// Handle is equal for equal workloads, and cheap to compare. It is zero for nil.
func (p *Peer) Handle() unique.Handle[Workload] {
	if p == nil {
		return unique.Handle[Workload]{}
	}
	return p.handle
}

// Text is the filter state object as text: Envoy's Struct of it, in JSON with
// sorted keys.
func (p *Peer) Text() string { return p.text() }

// maxFact bounds one thing that a peer says, in bytes. The names of Kubernetes
// have 253 at most.
const maxFact = 1024

// fact is s, if it can be the value of a label; else "".
func fact(s string) string {
	if len(s) > maxFact || !utf8.ValidString(s) || strings.ContainsFunc(s, isControl) {
		return ""
	}
	return s
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// FromStruct reads a workload from a node's metadata, or from what a peer has
// sent. Of the labels only the well-known ones and additional are taken. What
// is longer than 1 KiB or has control characters is left out.
func FromStruct(s *structpb.Struct, additional []string) Workload {
	text := func(key string) string { return fact(s.GetFields()[key].GetStringValue()) }
	w := Workload{
		Instance: text("NAME"), Namespace: text("NAMESPACE"), Name: text("WORKLOAD_NAME"),
		Cluster: text("CLUSTER_ID"), Identity: text("IDENTITY"),
		Region: text("REGION"), Zone: text("AVAILABILITY_ZONE"),
	}
	w.Kind = KindOf(text("OWNER"), w.Name)
	w.takeLabels(s.GetFields()["LABELS"].GetStructValue().GetFields(), additional)
	return w
}

// Local is the workload of a node, whose locality fills in what the metadata
// do not say.
func Local(metadata *structpb.Struct, region, zone string, additional []string) Workload {
	w := FromStruct(metadata, additional)
	if w.Region == "" {
		w.Region = region
	}
	if w.Zone == "" {
		w.Zone = zone
	}
	return w
}

// KindOf reads the kind from an owner: prefix/NAMESPACE/deployments/NAME; "" if
// it is none that Istio knows.
func KindOf(owner, name string) string {
	if len(owner) <= len(name)+2 {
		return ""
	}
	owner = owner[:len(owner)-len(name)-2]
	kind := owner[strings.LastIndexByte(owner, '/')+1:]
	if len(kind) < len(owner) && knownKind(kind) {
		return kind
	}
	return ""
}

func knownKind(kind string) bool {
	return slices.Contains([]string{"pod", "deployment", "job", "cronjob"}, kind)
}

// takeLabels prefers the qualified names of application and version.
func (w *Workload) takeLabels(labels map[string]*structpb.Value, additional []string) {
	text := func(key string) string { return fact(labels[key].GetStringValue()) }
	w.CanonicalName, w.CanonicalRevision = text(canonicalNameLabel), text(canonicalVersionLabel)
	if w.App = text("app.kubernetes.io/name"); w.App == "" {
		w.App = text("app")
	}
	if w.Version = text("app.kubernetes.io/version"); w.Version == "" {
		w.Version = text("version")
	}
	asked := map[string]string{}
	for _, key := range additional {
		if _, there := labels[key]; there && !wellKnown(key) {
			asked[key] = text(key)
		}
	}
	w.setLabels(asked)
}

func wellKnown(label string) bool {
	switch label {
	case canonicalNameLabel, canonicalVersionLabel, "app.kubernetes.io/name", "app", "app.kubernetes.io/version", "version":
		return true
	}
	return false
}

func (w *Workload) setLabels(labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	if text, err := json.Marshal(labels); err == nil { // it is all text
		w.Labels = string(text)
	}
}

// LabelMap are the Labels; nil for none.
func (w *Workload) LabelMap() map[string]string {
	var out map[string]string
	if w.Labels == "" || json.Unmarshal([]byte(w.Labels), &out) != nil {
		return nil
	}
	return out
}

// Struct is the workload as x-envoy-peer-metadata.
func (w *Workload) Struct() *structpb.Struct {
	labels := textStruct(map[string]string{
		canonicalNameLabel: w.CanonicalName, canonicalVersionLabel: w.CanonicalRevision,
		"app": w.App, "version": w.Version,
	})
	for k, v := range w.LabelMap() {
		labels.Fields[k] = structpb.NewStringValue(v)
	}
	s := textStruct(map[string]string{
		"NAME": w.Instance, "NAMESPACE": w.Namespace, "WORKLOAD_NAME": w.Name, "CLUSTER_ID": w.Cluster,
		"IDENTITY": w.Identity, "OWNER": w.owner(), "REGION": w.Region, "AVAILABILITY_ZONE": w.Zone,
	})
	s.Fields["LABELS"] = structpb.NewStructValue(labels)
	return s
}

func (w *Workload) owner() string {
	if w.Kind == "" {
		return ""
	}
	return ownerPrefix + w.Namespace + "/" + w.Kind + "s/" + w.Name
}

// textStruct leaves out what is empty.
func textStruct(values map[string]string) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range values {
		if v != "" {
			s.Fields[k] = structpb.NewStringValue(v)
		}
	}
	return s
}

// Field is a field by Envoy's name for it (namespace, workload, ...), as
// %FILTER_STATE(x:FIELD:name)% and expressions ask for it.
func (w *Workload) Field(name string) (string, bool) {
	switch name {
	case "type":
		if w.Kind == "" {
			return "unknown", true
		}
		return w.Kind, true
	case "workload":
		return w.Name, true
	case "name":
		return w.Instance, true
	case "cluster":
		return w.Cluster, true
	case "namespace":
		return w.Namespace, true
	case "service":
		return w.CanonicalName, true
	case "revision":
		return w.CanonicalRevision, true
	case "app":
		return w.App, true
	case "version":
		return w.Version, true
	case "identity":
		return w.Identity, true
	case "region":
		return w.Region, true
	case "availability_zone":
		return w.Zone, true
	}
	return "", false
}

// state is the workload as the filter state object downstream_peer or
// upstream_peer.
func (w Workload) state() string {
	out := map[string]any{}
	for _, name := range []string{
		"type", "workload", "name", "cluster", "namespace", "service", "revision", "app", "version", "identity", "region", "availability_zone",
	} {
		if v, _ := w.Field(name); v != "" && (name != "type" || w.Kind != "") {
			out[name] = v
		}
	}
	if labels := w.LabelMap(); len(labels) > 0 {
		out["labels"] = labels
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "{}" // not reached: it is all text
	}
	return string(text)
}
