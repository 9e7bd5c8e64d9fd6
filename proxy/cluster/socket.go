package cluster

import (
	"sort"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
)

// matchNamespace is the metadata namespace that transport_socket_matches look
// at; source: Cluster.transport_socket_matches.
const matchNamespace = "envoy.transport_socket_match"

// SocketTrial is how one transport socket match fared.
type SocketTrial struct {
	Name string // of the match
	// On is whose metadata was looked at: "endpoint" or "locality".
	On      string
	Matched bool
	// Label is the first label, in alphabetical order, that did not fit; Want
	// and Got are its values as JSON, Got "" if the metadata has no such label.
	Label, Want, Got string
}

// SocketChoice is which transport socket an endpoint is met with, and why.
type SocketChoice struct {
	// Index is the chosen transport_socket_matches entry, -1 for the cluster's
	// transport_socket.
	Index  int
	Name   string // of the match, "" for the cluster's transport_socket
	Trials []SocketTrial
}

// MatchSocket chooses among matches: the first that fits the endpoint's
// metadata, else the first that fits its locality's, else none. A match fits
// if each of its labels is in the metadata with an equal value, so an empty
// one fits all. It keeps the Trials only if trace is set.
func MatchSocket(matches []config.TransportSocketMatch, endpoint, locality map[string]*structpb.Struct, trace bool) SocketChoice {
	choice := SocketChoice{Index: -1}
	for _, on := range [...]struct {
		name     string
		metadata map[string]*structpb.Struct
	}{{"endpoint", endpoint}, {"locality", locality}} {
		if on.name == "locality" && on.metadata[matchNamespace] == nil {
			break
		}
		for i, m := range matches {
			trial := tryMatch(m.Match, on.metadata[matchNamespace])
			if trace {
				trial.Name, trial.On = m.Name, on.name
				choice.Trials = append(choice.Trials, trial)
			}
			if trial.Matched {
				choice.Index, choice.Name = i, m.Name
				return choice
			}
		}
	}
	return choice
}

func tryMatch(want, have *structpb.Struct) SocketTrial {
	for _, label := range sortedLabels(want) {
		w, h := want.GetFields()[label], have.GetFields()[label]
		if h == nil || !proto.Equal(w, h) {
			return SocketTrial{Label: label, Want: valueText(w), Got: valueText(h)}
		}
	}
	return SocketTrial{Matched: true}
}

func sortedLabels(s *structpb.Struct) []string {
	if len(s.GetFields()) == 0 {
		return nil
	}
	labels := make([]string, 0, len(s.GetFields()))
	for l := range s.GetFields() {
		labels = append(labels, l)
	}
	sort.Strings(labels)
	return labels
}

func valueText(v *structpb.Value) string {
	if v == nil {
		return ""
	}
	text, err := v.MarshalJSON()
	if err != nil {
		return v.String()
	}
	return string(text)
}
