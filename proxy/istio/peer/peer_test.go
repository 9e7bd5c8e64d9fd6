package peer

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func metadata(t testing.TB, more map[string]any) *structpb.Struct {
	t.Helper()
	values := map[string]any{
		"NAME": "pod-1", "NAMESPACE": "ns", "WORKLOAD_NAME": "w", "CLUSTER_ID": "k1", "IDENTITY": "spiffe://td/ns/ns/sa/s",
		"OWNER": "kubernetes://apis/apps/v1/namespaces/ns/deployments/w", "SECRET": "not sent",
		"LABELS": map[string]any{
			"app": "a", "app.kubernetes.io/version": "v2", "version": "v1", "asked": "yes", "other": "no",
			"service.istio.io/canonical-name": "cn", "service.istio.io/canonical-revision": "cr",
		},
	}
	for k, v := range more {
		values[k] = v
	}
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatGoesOutInAHeaderComesInAgain(t *testing.T) {
	sent := Local(metadata(t, nil), "r1", "z1", []string{"asked", "absent"})
	header, err := sent.Header()
	if err != nil {
		t.Fatal(err)
	}
	want := Workload{
		Instance: "pod-1", Namespace: "ns", Name: "w", Cluster: "k1", Identity: "spiffe://td/ns/ns/sa/s",
		CanonicalName: "cn", CanonicalRevision: "cr", App: "a", Version: "v2", Kind: "deployment",
		Region: "r1", Zone: "z1", Labels: `{"asked":"yes"}`,
	}
	for name, value := range map[string]string{"padded": header, "without padding": strings.TrimRight(header, "=")} {
		got, err := FromHeader(value, []string{"asked"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if New(want).Handle() != New(sent).Handle() || New(want).Handle() == New(Workload{}).Handle() {
		t.Error("handles do not compare as workloads do")
	}
}

func TestNonsenseInAHeaderIsRefused(t *testing.T) {
	deep := strings.Repeat("\x0a\xff\x01", 200)
	long, err := proto.Marshal(metadata(t, map[string]any{"ELSE": strings.Repeat("x", maxHeader)}))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"no base64":     "!!!!",
		"no message":    base64.StdEncoding.EncodeToString([]byte("\xff\xff\xff")),
		"deeply nested": base64.StdEncoding.EncodeToString([]byte(deep)),
		"too long":      base64.StdEncoding.EncodeToString(long),
	} {
		if w, err := FromHeader(value, nil); err == nil {
			t.Errorf("%s: it is %+v", name, w)
		}
	}
}

func TestAFactThatCanBeNoLabelIsLeftOut(t *testing.T) {
	for name, value := range map[string]string{
		"long": strings.Repeat("a", maxFact+1), "a line end": "a\nb", "a delete": "a\x7f",
	} {
		w := FromStruct(metadata(t, map[string]any{"WORKLOAD_NAME": value}), nil)
		if w.Name != "" || w.Namespace != "ns" {
			t.Errorf("%s: the workload is %q in %q", name, w.Name, w.Namespace)
		}
	}
}

func TestOwnerTellsTheKindOfWorkload(t *testing.T) {
	for owner, want := range map[string]string{
		"kubernetes://apis/apps/v1/namespaces/ns/deployments/w": "deployment",
		"kubernetes://apis/apps/v1/namespaces/ns/cronjobs/w":    "cronjob",
		"kubernetes://apis/apps/v1/namespaces/ns/daemonsets/w":  "",
		"deployments/w": "", "s/w": "", "w": "", "": "",
	} {
		if got := KindOf(owner, "w"); got != want {
			t.Errorf("kind of %q is %q, want %q", owner, got, want)
		}
	}
}

func TestQualifiedLabelsArePreferred(t *testing.T) {
	w := FromStruct(metadata(t, map[string]any{"LABELS": map[string]any{
		"app": "short", "app.kubernetes.io/name": "qualified", "version": "v1", "app.kubernetes.io/version": "",
	}}), nil)
	if w.App != "qualified" || w.Version != "v1" {
		t.Errorf("application %q, version %q", w.App, w.Version)
	}
}

func TestBaggageIsRead(t *testing.T) {
	for value, want := range map[string]Workload{
		"k8s.deployment.name=w,service.name=s,service.version=v,k8s.namespace.name=ns,k8s.cluster.name=c,k8s.instance.name=i,cloud.region=r,cloud.availability_zone=z": {
			Name: "w", Kind: "deployment", CanonicalName: "s", App: "s", CanonicalRevision: "v", Version: "v",
			Namespace: "ns", Cluster: "c", Instance: "i", Region: "r", Zone: "z",
		},
		"app.name=a,service.name=s,k8s.cronjob.name=j": {App: "a", CanonicalName: "s", Name: "j", Kind: "cronjob"},
		"app.version=1,other=x,=,,k8s.pod.name=a=b":    {Version: "1", CanonicalRevision: "1", Name: "a", Kind: "pod"},
		"": {},
		strings.Repeat("k8s.pod.name=x,", maxHeader): {},
	} {
		if diff := cmp.Diff(want, FromBaggage(value)); diff != "" {
			t.Errorf("%.60q (-want +got):\n%s", value, diff)
		}
	}
}

func TestAnEndpointsMetadataAreRead(t *testing.T) {
	got, ok := FromEndpoint("w;ns;s;v1;c;more")
	if want := (Workload{Name: "w", Namespace: "ns", CanonicalName: "s", CanonicalRevision: "v1", Cluster: "c"}); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, ok := FromEndpoint("w;ns;s;v1"); ok {
		t.Error("four parts are taken")
	}
}

func TestTheFilterStateIsEnvoysStruct(t *testing.T) {
	w := Local(metadata(t, nil), "r1", "z1", []string{"asked"})
	want := `{"app":"a","availability_zone":"z1","cluster":"k1","identity":"spiffe://td/ns/ns/sa/s","labels":{"asked":"yes"},"name":"pod-1","namespace":"ns","region":"r1","revision":"cr","service":"cn","type":"deployment","version":"v2","workload":"w"}`
	if got := New(w).Text(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := New(Workload{}).Text(); got != "{}" {
		t.Errorf("nothing is %s", got)
	}
}

// FuzzFromHeader promises no panic, and that what was read can be sent and read
// again.
func FuzzFromHeader(f *testing.F) {
	w := FromStruct(metadata(f, nil), []string{"asked"})
	header, err := w.Header()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(header, "k8s.pod.name=a,service.name=b")
	f.Add("Cg==", "=,=")
	f.Fuzz(func(t *testing.T, header, baggage string) {
		FromBaggage(baggage)
		w, err := FromHeader(header, []string{"asked"})
		if err != nil {
			return
		}
		_ = New(w).Text()
		again, err := w.Header()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := FromHeader(again, []string{"asked"}); err != nil || got != w && w.Kind == "" {
			t.Errorf("%+v became %+v, %v", w, got, err)
		}
	})
}
