package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// take applies one answer, and answers it.
func (c *Client) take(a answer) {
	c.applying.Lock()
	defer c.applying.Unlock()
	begin := time.Now()
	c.mu.Lock()
	c.heard, c.everHeard = true, true
	k := c.kinds[a.url]
	if k == nil {
		c.mu.Unlock()
		c.opts.Log.Warn("xDS answer of a type that nobody asked for is ignored", "cluster", c.opts.Server, "type", a.url)
		return
	}
	update, errs := k.diff(a)
	c.mu.Unlock()

	for name, err := range c.apply(k, update) {
		errs[name] = err
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	k.record(update, errs, a, c.keeps(k))
	if len(errs) == 0 {
		k.accept(a)
		k.Stats.Took(a.version, time.Since(begin))
		c.opts.Log.Debug("xDS update is applied", "cluster", c.opts.Server, "type", k.URL, "version", a.version,
			"updated", len(update.Updated), "removed", len(update.Removed))
	} else {
		err := refusalText(errs)
		k.nack(a, err)
		k.Stats.Refused()
		c.opts.Log.Warn("xDS update is refused, what was before goes on", "cluster", c.opts.Server, "type", k.URL,
			"version", a.version, "reason", err)
	}
	k.answered()
	poke(c.expiry)
	c.signal()
}

// apply hands an update to its taker, while the types that depend on it wait.
func (c *Client) apply(k *kind, update Update) map[string]error {
	resume := c.Pause(k.Holds...)
	defer resume()
	return k.Apply(update)
}

// lookAgain is for how long a refused resource is refused without another look:
// what was in its way may be gone, a file that was missing or an address that
// was taken.
const lookAgain = 5 * time.Second

// diff is what of an answer is new, and what is wrong without a further look.
func (k *kind) diff(a answer) (Update, map[string]error) {
	update, errs := Update{Version: a.version}, map[string]error{}
	present, places := map[string]bool{}, map[string]int{}
	maps.DeleteFunc(k.refused, func(_ string, r *refused) bool { return r.nameless })
	for _, r := range a.resources {
		if r.err == nil && present[r.Name] {
			r.err = errors.New("the answer has two resources of that name")
		}
		present[r.Name] = true
		before, last := k.known[r.Name], k.refused[r.Name]
		switch {
		case r.err != nil:
			errs[r.Name] = r.err
			k.refuse(r, r.err)
			if i, listed := places[r.Name]; listed {
				update.Updated[i].Body = nil // the first of two
			}
		case !k.wants(r.Name):
		case r.heartbeat:
			if before != nil {
				k.expire(r)
			}
		case before != nil && before.sum == r.sum:
			before.version = r.Version
			k.expire(r)
			delete(k.refused, r.Name)
		case last != nil && last.sum == r.sum && time.Since(last.When) < lookAgain:
			// Sent again, as servers do at once after a refusal.
			errs[r.Name] = last.Err
			last.Version = r.Version
		default:
			places[r.Name] = len(update.Updated)
			update.Updated = append(update.Updated, r.Resource)
		}
	}
	update.Updated = slices.DeleteFunc(update.Updated, func(r Resource) bool { return r.Body == nil })
	update.Removed = k.gone(a, present)
	return update, errs
}

// gone are the known resources that an answer takes away.
func (k *kind) gone(a answer, present map[string]bool) []string {
	var out []string
	if k.sotw(a) {
		for name := range k.known {
			if !present[name] {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	for _, name := range a.removed {
		delete(k.refused, name)
		if k.wants(name) && !present[name] {
			out = append(out, name)
		}
	}
	return out
}

// sotw says that what is not in the answer is removed. Of an answer with what
// cannot be read nobody knows what it leaves out.
func (k *kind) sotw(a answer) bool {
	return k.Whole && !a.delta && !slices.ContainsFunc(a.resources, func(r received) bool { return r.nameless })
}

// expire notes until when r is good.
func (k *kind) expire(r received) {
	if r.TTL == 0 {
		delete(k.expiring, r.Name)
	} else {
		k.expiring[r.Name] = time.Now().Add(r.TTL)
	}
}

func (k *kind) refuse(r received, err error) {
	k.refused[r.Name] = &refused{
		Refusal: Refusal{Name: r.Name, Version: r.Version, When: time.Now(), Err: err, Body: r.Body},
		sum:     r.sum, nameless: r.nameless,
	}
}

// record keeps what became of an update.
func (k *kind) record(update Update, errs map[string]error, a answer, bodies bool) {
	byName := make(map[string]received, len(update.Updated))
	for _, r := range a.resources {
		byName[r.Name] = r
	}
	for _, u := range update.Updated {
		r := byName[u.Name]
		if err := errs[u.Name]; err != nil {
			k.refuse(r, err)
			continue
		}
		if !k.wants(u.Name) {
			continue // unsubscribed meanwhile
		}
		h := &held{version: r.Version, sum: r.sum}
		k.expire(r)
		if bodies {
			h.body = r.Body
		}
		k.known[u.Name] = h
		delete(k.refused, u.Name)
		k.dirty = true
	}
	for _, name := range update.Removed {
		k.forget(name)
		delete(k.refused, name)
	}
	if k.sotw(a) {
		for name := range k.refused {
			if _, there := byName[name]; !there {
				delete(k.refused, name)
			}
		}
	}
}

// forget drops a resource that is gone.
func (k *kind) forget(name string) {
	delete(k.known, name)
	delete(k.expiring, name)
	k.dirty = true
}

// accept queues an ACK.
func (k *kind) accept(a answer) {
	k.version, k.nackPause = a.version, 0
	k.reply(ack{nonce: a.nonce}, a)
}

// The shortest and the longest pause before a NACK: servers answer one at once
// with what was just refused.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
)

// nack queues a NACK.
func (k *kind) nack(a answer, err error) {
	k.nackPause = min(max(2*k.nackPause, firstPause), maxPause)
	k.nackDue = time.Now().Add(k.nackPause)
	k.reply(ack{a.nonce, &statuspb.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}}, a)
}

// reply queues the answer to a. In the state of the world only the last one
// counts.
func (k *kind) reply(one ack, a answer) {
	if !a.delta {
		k.nonce, k.acks = a.nonce, nil
	}
	k.acks = append(k.acks, one)
}

// maxDetail bounds the text of a refusal.
const maxDetail = 32 << 10

// refusalText is every mistake of an answer, one a line: the resource's name,
// the field path, what is wrong.
func refusalText(errs map[string]error) error {
	var lines []string
	size := 0
	for i, name := range slices.Sorted(maps.Keys(errs)) {
		for line := range strings.Lines(errs[name].Error()) {
			line = fmt.Sprintf("%s: %s", name, strings.TrimRight(line, "\n"))
			if size += len(line) + 1; size > maxDetail {
				lines = append(lines, fmt.Sprintf("and more: %d resources are refused, %d of them are not shown in full", len(errs), len(errs)-i))
				return errors.New(strings.ToValidUTF8(strings.Join(lines, "\n"), "\ufffd"))
			}
			lines = append(lines, line)
		}
	}
	return errors.New(strings.ToValidUTF8(strings.Join(lines, "\n"), "\ufffd"))
}

// expire removes the resources whose TTL has passed, until ctx ends.
func (c *Client) expire(ctx context.Context) {
	for {
		var due <-chan time.Time
		if next := c.nextExpiry(); !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-c.expiry:
		case <-due:
			c.dropExpired()
		}
	}
}

func (c *Client) nextExpiry() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first time.Time
	for _, k := range c.order {
		for _, until := range k.expiring {
			if first.IsZero() || until.Before(first) {
				first = until
			}
		}
	}
	return first
}

// dropExpired tells each type what it has lost.
func (c *Client) dropExpired() {
	c.applying.Lock()
	defer c.applying.Unlock()
	now := time.Now()
	c.mu.Lock()
	lost := map[*kind][]string{}
	for _, k := range c.order {
		for name, until := range k.expiring {
			if !until.After(now) {
				lost[k] = append(lost[k], name)
				k.forget(name)
			}
		}
	}
	c.mu.Unlock()
	for k, names := range lost {
		slices.Sort(names)
		c.opts.Log.Warn("xDS resources have expired: their ttl has passed", "type", k.URL, "names", names)
		c.apply(k, Update{Version: k.version, Removed: names})
	}
}
