package xds

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// answer is one response of either protocol.
type answer struct {
	url, version, nonce string
	delta               bool
	resources           []received
	removed             []string
}

// received is one resource of an answer.
type received struct {
	Resource
	sum [sha256.Size]byte
	// heartbeat says that only the TTL begins anew.
	heartbeat bool
	err       error // it cannot be read
	nameless  bool  // Name is its place in the answer
}

// receive takes answers until the stream ends.
func (c *Client) receive(s Stream) error {
	for {
		var a answer
		var identifier string
		if c.opts.Delta {
			m := &discoveryv3.DeltaDiscoveryResponse{}
			if err := s.RecvMsg(m); err != nil {
				return err
			}
			a, identifier = c.readDelta(m), m.GetControlPlane().GetIdentifier()
		} else {
			m := &discoveryv3.DiscoveryResponse{}
			if err := s.RecvMsg(m); err != nil {
				return err
			}
			a, identifier = c.readWhole(m), m.GetControlPlane().GetIdentifier()
		}
		c.opts.ControlPlane.setIdentifier(identifier)
		c.take(a)
	}
}

// readWhole reads a state-of-the-world answer.
func (c *Client) readWhole(m *discoveryv3.DiscoveryResponse) answer {
	a := answer{url: m.GetTypeUrl(), version: m.GetVersionInfo(), nonce: m.GetNonce()}
	nameOf := c.namer(a.url)
	for i, packed := range m.GetResources() {
		r := received{Resource: Resource{Version: a.version, Body: packed}}
		if packed.GetTypeUrl() == wrapperType {
			r = unwrap(packed)
			r.Version = a.version
		}
		r.check(a.url, fmt.Sprintf("resources[%d]", i), nameOf)
		a.resources = append(a.resources, r)
	}
	return a
}

// readDelta reads an incremental answer.
func (c *Client) readDelta(m *discoveryv3.DeltaDiscoveryResponse) answer {
	a := answer{delta: true, url: m.GetTypeUrl(), version: m.GetSystemVersionInfo(), nonce: m.GetNonce(), removed: m.GetRemovedResources()}
	for _, n := range m.GetRemovedResourceNames() {
		a.removed = append(a.removed, n.GetName())
	}
	nameOf := c.namer(a.url)
	for i, w := range m.GetResources() {
		r := fromWrapper(w)
		r.check(a.url, fmt.Sprintf("resources[%d]", i), nameOf)
		a.resources = append(a.resources, r)
	}
	return a
}

// wrapperType is the discovery Resource, which carries a TTL in answers of the
// state of the world.
const wrapperType = "type.googleapis.com/envoy.service.discovery.v3.Resource"

func unwrap(packed *anypb.Any) received {
	w := &discoveryv3.Resource{}
	if err := packed.UnmarshalTo(w); err != nil {
		return received{err: err}
	}
	return fromWrapper(w)
}

func fromWrapper(w *discoveryv3.Resource) received {
	r := received{Resource: Resource{Name: w.GetName(), Version: w.GetVersion(), Body: w.GetResource()}}
	if w.GetTtl() != nil {
		r.TTL, r.err = ttl(w.GetTtl())
	}
	r.heartbeat = r.Body == nil && r.TTL > 0
	return r
}

func ttl(d *durationpb.Duration) (time.Duration, error) {
	if err := d.CheckValid(); err != nil {
		return 0, fmt.Errorf("ttl: %w", err)
	}
	if d.AsDuration() <= 0 {
		return 0, fmt.Errorf("ttl: %s is not positive", d.AsDuration())
	}
	return d.AsDuration(), nil
}

// check completes r: its name, its digest, and what is wrong with it. place
// names one that has no name.
func (r *received) check(url, place string, nameOf func(*anypb.Any) (string, error)) {
	switch {
	case r.err != nil:
	case r.heartbeat:
		if r.Name == "" {
			r.err = errors.New("has neither a name nor a resource")
		}
	case r.Body == nil:
		r.err = errors.New("resource: must be set")
	case r.Body.GetTypeUrl() != url:
		r.err = fmt.Errorf("%q is not the answer's type_url, %q", r.Body.GetTypeUrl(), url)
	case r.Name == "":
		r.Name, r.err = nameOf(r.Body)
	}
	if r.Name == "" && r.err != nil {
		r.Name, r.nameless = place, true
	}
	if r.Body != nil {
		r.sum = sha256.Sum256(r.Body.GetValue())
	}
}

func (c *Client) namer(url string) func(*anypb.Any) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kinds[url]; k != nil && k.Name != nil {
		return k.Name
	}
	return firstField
}

// nameField is the field of the name, in every resource of Envoy's.
const nameField = 1

// firstField is the text in field 1, the last one if there are several, as
// protobuf has it.
func firstField(packed *anypb.Any) (string, error) {
	name, body := "", packed.GetValue()
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
		if number == nameField && kind == protowire.BytesType {
			text, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return "", protowire.ParseError(n)
			}
			name, body = string(text), body[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, body); n < 0 {
			return "", protowire.ParseError(n)
		}
		body = body[n:]
	}
	if name == "" {
		return "", errors.New("the resource has no name")
	}
	return name, nil
}
