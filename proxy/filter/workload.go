package filter

import (
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
)

// workload is what proxies tell each other about what they stand before.
// Source: Envoy's contrib/istio WorkloadMetadataObject. What a peer says of
// itself is not verified by anything.
type workload struct {
	instance, namespace, name, cluster, identity string
	canonicalName, canonicalRevision             string
	appName, appVersion                          string
	kind                                         string // pod, deployment, job, cronjob; "" unknown
	region, zone                                 string
	labels                                       map[string]string // those asked for
}

const ownerPrefix = "kubernetes://apis/apps/v1/namespaces/"

// workloadOf reads a workload from a node's metadata, or from what a peer has
// sent. Of the labels only the well-known ones and additional are taken.
func workloadOf(s *structpb.Struct, additional []string) workload {
	text := func(key string) string { return s.GetFields()[key].GetStringValue() }
	w := workload{
		instance: text("NAME"), namespace: text("NAMESPACE"), name: text("WORKLOAD_NAME"),
		cluster: text("CLUSTER_ID"), identity: text("IDENTITY"),
		region: text("REGION"), zone: text("AVAILABILITY_ZONE"),
	}
	w.kind = kindOf(text("OWNER"), w.name)
	w.takeLabels(s.GetFields()["LABELS"].GetStructValue().GetFields(), additional)
	return w
}

// localWorkload is the workload that this proxy stands before.
func localWorkload(node *config.Node, additional []string) workload {
	w := workloadOf(node.Metadata, additional)
	if w.region == "" {
		w.region = node.Locality.Region
	}
	if w.zone == "" {
		w.zone = node.Locality.Zone
	}
	return w
}

// kindOf reads the kind from an owner: prefix/NAMESPACE/deployments/NAME.
func kindOf(owner, name string) string {
	if len(owner) <= len(name)+2 {
		return ""
	}
	owner = owner[:len(owner)-len(name)-2]
	kind := owner[strings.LastIndexByte(owner, '/')+1:]
	if len(kind) < len(owner) && slices.Contains([]string{"pod", "deployment", "job", "cronjob"}, kind) {
		return kind
	}
	return ""
}

// takeLabels prefers the qualified names of application and version.
func (w *workload) takeLabels(labels map[string]*structpb.Value, additional []string) {
	var qualifiedApp, qualifiedVersion string
	for key, v := range labels {
		text := v.GetStringValue()
		switch key {
		case "service.istio.io/canonical-name":
			w.canonicalName = text
		case "service.istio.io/canonical-revision":
			w.canonicalRevision = text
		case "app.kubernetes.io/name":
			qualifiedApp = text
		case "app":
			w.appName = text
		case "app.kubernetes.io/version":
			qualifiedVersion = text
		case "version":
			w.appVersion = text
		default:
			w.takeLabel(key, text, additional)
		}
	}
	if qualifiedApp != "" {
		w.appName = qualifiedApp
	}
	if qualifiedVersion != "" {
		w.appVersion = qualifiedVersion
	}
}

func (w *workload) takeLabel(key, text string, additional []string) {
	if !slices.Contains(additional, key) {
		return
	}
	if w.labels == nil {
		w.labels = map[string]string{}
	}
	w.labels[key] = text
}

// metadata is the workload as x-envoy-peer-metadata.
func (w *workload) metadata() *structpb.Struct {
	labels := textStruct(map[string]string{
		"service.istio.io/canonical-name": w.canonicalName, "service.istio.io/canonical-revision": w.canonicalRevision,
		"app": w.appName, "version": w.appVersion,
	})
	for k, v := range w.labels {
		labels.Fields[k] = structpb.NewStringValue(v)
	}
	s := textStruct(map[string]string{
		"NAME": w.instance, "NAMESPACE": w.namespace, "WORKLOAD_NAME": w.name, "CLUSTER_ID": w.cluster,
		"IDENTITY": w.identity, "OWNER": w.owner(), "REGION": w.region, "AVAILABILITY_ZONE": w.zone,
	})
	s.Fields["LABELS"] = structpb.NewStructValue(labels)
	return s
}

func (w *workload) owner() string {
	if w.kind == "" {
		return ""
	}
	return ownerPrefix + w.namespace + "/" + w.kind + "s/" + w.name
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

// state is the workload as the filter state object downstream_peer or
// upstream_peer: Envoy's struct of it, in JSON with sorted keys.
func (w *workload) state() string {
	out := map[string]any{}
	for k, v := range map[string]string{
		"type": w.kind, "workload": w.name, "name": w.instance, "cluster": w.cluster, "namespace": w.namespace,
		"service": w.canonicalName, "revision": w.canonicalRevision, "app": w.appName, "version": w.appVersion,
		"identity": w.identity, "region": w.region, "availability_zone": w.zone,
	} {
		if v != "" {
			out[k] = v
		}
	}
	if len(w.labels) > 0 {
		out["labels"] = w.labels
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "{}" // not reached: it is all text
	}
	return string(text)
}

// frameOf is the frame that this proxy sends, made once for a configuration.
func frameOf(node *config.Node, additional []string) ([]byte, error) {
	w := localWorkload(node, additional)
	s := &structpb.Struct{Fields: map[string]*structpb.Value{keyMetadata: structpb.NewStructValue(w.metadata())}}
	if node.ID != "" {
		s.Fields[keyMetadataID] = structpb.NewStringValue(node.ID)
	}
	return formatFrame(s)
}
