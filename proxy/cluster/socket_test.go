package cluster

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
)

func label(kv ...string) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := 0; i < len(kv); i += 2 {
		s.Fields[kv[i]] = structpb.NewStringValue(kv[i+1])
	}
	return s
}

func meta(kv ...string) map[string]*structpb.Struct {
	return map[string]*structpb.Struct{matchNamespace: label(kv...)}
}

func TestTransportSocketMatch(t *testing.T) {
	istio := []config.TransportSocketMatch{
		{Name: "tlsMode-istio", Match: label("tlsMode", "istio")}, {Name: "tlsMode-disabled", Match: label()},
	}
	two := []config.TransportSocketMatch{{Name: "both", Match: label("a", "1", "b", "2")}}
	for _, test := range []struct {
		name               string
		matches            []config.TransportSocketMatch
		endpoint, locality map[string]*structpb.Struct
		want               string
		failed             []string
	}{
		{"the first match wins", istio, meta("tlsMode", "istio"), nil, "tlsMode-istio", nil},
		{"an empty match fits anything", istio, meta("tlsMode", "x"), nil, "tlsMode-disabled", []string{"tlsMode"}},
		{"an empty match fits no metadata", istio, nil, nil, "tlsMode-disabled", []string{"tlsMode"}},
		{"an empty match on the endpoint beats the locality", istio, nil, meta("tlsMode", "istio"), "tlsMode-disabled", []string{"tlsMode"}},
		{"the locality is looked at when the endpoint fits nothing", two, meta("a", "1"), meta("a", "1", "b", "2"), "both", []string{"b"}},
		{"every label must fit", two, meta("a", "2", "b", "2"), nil, "", []string{"a"}},
		{"more labels do no harm", two, meta("a", "1", "b", "2", "c", "3"), nil, "both", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := MatchSocket(test.matches, test.endpoint, test.locality, true)
			if got.Name != test.want {
				t.Errorf("chosen %q, want %q", got.Name, test.want)
			}
			var failed []string
			for _, trial := range got.Trials {
				if !trial.Matched {
					failed = append(failed, trial.Label)
				}
			}
			if !slices.Equal(failed, test.failed) {
				t.Errorf("labels that failed %q, want %q", failed, test.failed)
			}
		})
	}
}
