package xdstest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Replay serves what another control plane once sent.
type Replay struct {
	mu    sync.Mutex
	types map[string][]*discoveryv3.Resource // guarded by mu; by type URL
	nacks []string                           // guarded by mu
	acked map[string]int                     // guarded by mu; by type URL
}

// NewReplay reads recorded answers: <prefix>-cds.pb, -eds.pb, -lds.pb and
// -rds.pb, those that there are. delta says of which protocol they are.
func NewReplay(t testing.TB, prefix string, delta bool) *Replay {
	t.Helper()
	r := &Replay{types: map[string][]*discoveryv3.Resource{}, acked: map[string]int{}}
	for _, kind := range []string{"cds", "eds", "lds", "rds"} {
		data, err := os.ReadFile(prefix + "-" + kind + ".pb")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = r.read(data, delta)
		}
		if err != nil {
			t.Fatalf("%s-%s.pb: %v", prefix, kind, err)
		}
	}
	if len(r.types) == 0 {
		t.Fatalf("there are no answers in %s-*.pb", prefix)
	}
	return r
}

// Add reads one more recorded answer, of state of the world, from a file.
func (r *Replay) Add(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(data, false); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// read needs mu, once there are streams.
func (r *Replay) read(data []byte, delta bool) error {
	if delta {
		m := &discoveryv3.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(data, m); err != nil {
			return err
		}
		r.types[m.GetTypeUrl()] = m.GetResources()
		return nil
	}
	m := &discoveryv3.DiscoveryResponse{}
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	for _, packed := range m.GetResources() {
		r.types[m.GetTypeUrl()] = append(r.types[m.GetTypeUrl()], &discoveryv3.Resource{Name: nameOf(packed), Version: m.GetVersionInfo(), Resource: packed})
	}
	return nil
}

// nameOf is field 1 of a resource that has it first.
func nameOf(packed *anypb.Any) string {
	number, kind, n := protowire.ConsumeTag(packed.GetValue())
	if number != 1 || kind != protowire.BytesType || n < 0 {
		return ""
	}
	name, _ := protowire.ConsumeBytes(packed.GetValue()[n:])
	return string(name)
}

// Names are the recorded resources of a type.
func (r *Replay) Names(typeURL string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, one := range r.types[typeURL] {
		out = append(out, one.GetName())
	}
	return out
}

// Change replaces the body of a recorded resource for the streams to come.
func (r *Replay) Change(typeURL, name string, change func(*anypb.Any) *anypb.Any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, one := range r.types[typeURL] {
		if one.GetName() == name {
			r.types[typeURL][i] = &discoveryv3.Resource{Name: name, Version: one.GetVersion(), Resource: change(one.GetResource())}
		}
	}
}

// Nacks are the texts of the refusals so far.
func (r *Replay) Nacks() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.nacks...)
}

// Acked counts the answers of a type that were accepted.
func (r *Replay) Acked(typeURL string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked[typeURL]
}

func (r *Replay) note(typeURL, nonce, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case detail != "":
		r.nacks = append(r.nacks, strings.TrimPrefix(typeURL, "type.googleapis.com/")+": "+detail)
	case nonce != "":
		r.acked[typeURL]++
	}
}

// wanted are the resources of a type with these names, all for none.
func (r *Replay) wanted(typeURL string, names []string) []*discoveryv3.Resource {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*discoveryv3.Resource
	for _, one := range r.types[typeURL] {
		for _, name := range names {
			if name == "*" || name == one.GetName() {
				out = append(out, one)
			}
		}
		if len(names) == 0 {
			out = append(out, one)
		}
	}
	return out
}

// Serve serves it on a free port of loopback until the test ends, and returns
// the address.
func (r *Replay) Serve(t testing.TB) string {
	t.Helper()
	return r.Script().Serve(t)
}

// Script is the service of the replay, for a server of the test's own.
func (r *Replay) Script() *Script { return &Script{OnDelta: r.delta, OnWhole: r.whole} }

func (r *Replay) delta(s Delta) error {
	begun := map[string]bool{}
	for {
		m, err := s.Recv()
		if err != nil {
			return ended(err)
		}
		url := m.GetTypeUrl()
		r.note(url, m.GetResponseNonce(), m.GetErrorDetail().GetMessage())
		names := m.GetResourceNamesSubscribe()
		if begun[url] && len(names) == 0 {
			continue
		}
		begun[url] = true
		if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: url, SystemVersionInfo: "recorded", Resources: r.wanted(url, names)}); err != nil {
			return err
		}
	}
}

func (r *Replay) whole(s Whole) error {
	last := map[string]string{}
	for {
		m, err := s.Recv()
		if err != nil {
			return ended(err)
		}
		url := m.GetTypeUrl()
		r.note(url, m.GetResponseNonce(), m.GetErrorDetail().GetMessage())
		names := strings.Join(m.GetResourceNames(), "\n")
		if before, begun := last[url]; begun && before == names {
			continue
		}
		last[url] = names
		out := &discoveryv3.DiscoveryResponse{TypeUrl: url, Nonce: url, VersionInfo: "recorded"}
		for _, one := range r.wanted(url, m.GetResourceNames()) {
			out.Resources = append(out.Resources, one.GetResource())
		}
		if err := s.Send(out); err != nil {
			return err
		}
	}
}

// ended is the end of a stream that the client has closed.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
