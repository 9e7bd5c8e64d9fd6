package xds

import (
	"context"
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

// send sends what is due until ctx ends or the stream fails. It is the only
// sender: receiving never waits for it, so a server that does not read cannot
// stop us from reading.
func (c *Client) send(ctx context.Context, s Stream) error {
	for {
		request, wait := c.next(time.Now())
		if request != nil {
			if err := s.SendMsg(request); err != nil {
				return err
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case <-due:
		}
	}
}

// next is the request to send now. If there is none yet, wait says after what
// time there is; 0 waits to be woken.
func (c *Client) next(now time.Time) (request proto.Message, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pending := 0
	var ready *kind
	for _, k := range c.order {
		due, has := k.due()
		switch {
		case !has:
			continue
		case due.After(now):
			if left := due.Sub(now); wait == 0 || left < wait {
				wait = left
			}
		case ready == nil:
			ready = k
		}
		pending++
	}
	c.opts.ControlPlane.setPending(pending)
	if ready == nil {
		return nil, wait
	}
	if left := c.limit(now); left > 0 {
		return nil, left
	}
	return c.request(ready, now), 0
}

// due is when the next request of the type goes out; has is false if there is
// none. What is asked for does not wait for a refusal.
func (k *kind) due() (at time.Time, has bool) {
	switch {
	case k.paused > 0:
		return at, false
	case !k.begun:
		return at, len(k.refs) > 0
	case k.moved():
		return at, true
	case len(k.acks) > 0:
		return k.ackDue(), true
	}
	return at, false
}

// ackDue is when the first of acks may go out.
func (k *kind) ackDue() time.Time {
	if k.acks[0].err == nil {
		return time.Time{}
	}
	return k.nackDue
}

// moved says that the names are others than the server knows.
func (k *kind) moved() bool {
	return k.changed && (len(k.subscribe) > 0 || len(k.unsubscribe) > 0)
}

// limit takes a token; without one it is how long to wait for it.
func (c *Client) limit(now time.Time) time.Duration {
	r := c.opts.Rate
	if r == nil || r.PerSecond <= 0 {
		return 0
	}
	c.tokens = min(float64(r.Tokens), c.tokens+now.Sub(c.refilled).Seconds()*r.PerSecond)
	c.refilled = now
	if c.tokens >= 1 {
		c.tokens--
		return 0
	}
	c.opts.ControlPlane.enforce()
	return max(time.Duration((1-c.tokens)/r.PerSecond*float64(time.Second)), time.Millisecond)
}

// request makes the type's next request, and counts it as sent; mu is held.
func (c *Client) request(k *kind, now time.Time) proto.Message {
	node := c.node()
	if c.opts.Delta {
		return k.delta(node, now)
	}
	k.begun = true
	out := &discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: k.URL, ResourceNames: k.names(), VersionInfo: k.version, ResponseNonce: k.nonce,
	}
	if len(k.acks) > 0 {
		out.ErrorDetail, k.acks = k.acks[0].err, k.acks[1:]
	}
	k.told()
	return out
}

// delta makes an incremental request. One that answers does not ask for
// anything: istiod takes no notice of what a refusal asks for.
func (k *kind) delta(node *corev3.Node, now time.Time) *discoveryv3.DeltaDiscoveryRequest {
	out := &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: k.URL}
	switch {
	case !k.begun:
		k.begun = true
		out.ResourceNamesSubscribe, out.InitialResourceVersions = k.names(), k.versions()
		k.told()
	case len(k.acks) > 0 && !k.ackDue().After(now):
		out.ResponseNonce, out.ErrorDetail = k.acks[0].nonce, k.acks[0].err
		k.acks = k.acks[1:]
	default:
		out.ResourceNamesSubscribe = slices.Sorted(maps.Keys(k.subscribe))
		out.ResourceNamesUnsubscribe = slices.Sorted(maps.Keys(k.unsubscribe))
		k.told()
	}
	return out
}

// told says that the server knows the names as they are.
func (k *kind) told() {
	clear(k.subscribe)
	clear(k.unsubscribe)
	k.changed = false
}

// node is the node, if the request must have it.
func (c *Client) node() *corev3.Node {
	if c.nodeSent && c.opts.NodeOnce {
		return nil
	}
	c.nodeSent = true
	return c.opts.Node
}

// versions is what we have, for a server that we come back to.
func (k *kind) versions() map[string]string {
	out := make(map[string]string, len(k.known))
	for name, h := range k.known {
		out[name] = h.version
	}
	return out
}
