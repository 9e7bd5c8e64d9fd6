package route

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// hashPolicy is one criterion of the hash.
type hashPolicy struct {
	cfg     *config.HashPolicy
	rewrite *substitution // of header values; nil: none
}

func compileHash(list []config.HashPolicy) ([]hashPolicy, error) {
	var out []hashPolicy
	var errs []error
	for i := range list {
		s, err := compileSubstitution(list[i].HeaderRegex)
		if err != nil {
			errs = append(errs, fmt.Errorf("hash_policy[%d].header.regex_rewrite: %w", i, err))
		}
		out = append(out, hashPolicy{&list[i], s})
	}
	return out, errors.Join(errs...)
}

// Hash is the hash that chooses the host, over all policies that have
// something to say; ok is false if none has. cookie is the first of
// HashCookies', "" for none. Envoy asks for it only where the cluster's load
// balancing goes by a hash, and so makes no cookies elsewhere.
func (m *Match) Hash(r *Request) (hash uint64, cookie string, ok bool) {
	hash, cookies, ok := m.HashCookies(r)
	if len(cookies) > 0 {
		cookie = cookies[0]
	}
	return hash, cookie, ok
}

// HashCookies is Hash, with all Set-Cookie fields that the answer must have:
// one for each policy that makes a cookie.
func (m *Match) HashCookies(r *Request) (hash uint64, cookies []string, ok bool) {
	hash, ok = m.hash(r, &cookies)
	return hash, cookies, ok
}

// hash makes no cookies if cookies is nil.
func (m *Match) hash(r *Request, cookies *[]string) (hash uint64, ok bool) {
	if m.entry == nil {
		return 0, false
	}
	for i := range m.entry.hash {
		p := &m.entry.hash[i]
		if one, has := p.one(r, cookies); has {
			hash, ok = bits.RotateLeft64(hash, 1)^one, true // so that the order counts
		}
		if p.cfg.Terminal && ok {
			break
		}
	}
	return hash, ok
}

func (p *hashPolicy) one(r *Request, cookies *[]string) (uint64, bool) {
	switch c := p.cfg; {
	case c.Header != "":
		return p.header(r.Head)
	case c.Cookie != nil:
		return hashCookie(c.Cookie, r, cookies)
	case c.SourceIP:
		if !r.Info.Remote.IsIP() {
			return 0, false
		}
		return xxhash.Sum64String(r.Info.Remote.Addr().String()), true
	case c.Query != "":
		v, ok := query(r.Head.Path, c.Query)
		return xxhash.Sum64String(v), ok
	case c.FilterState != "":
		v, ok := r.Info.State(c.FilterState)
		return xxhash.Sum64String(v), ok
	}
	return 0, false
}

// header hashes all values, sorted so that their order does not count: the hash
// of each is the seed of the next.
func (p *hashPolicy) header(h *message.Head) (uint64, bool) {
	name := p.cfg.Header
	v, ok := h.Get(name)
	if !ok {
		return 0, false
	}
	values := []string{v} // joined, and of pseudo-headers
	if all := h.Fields.Values(name); len(all) > 1 && !message.Inline(name) {
		values = all
	}
	if p.rewrite != nil {
		for i, v := range values {
			values[i] = p.rewrite.apply(v)
		}
	}
	slices.Sort(values)
	hash := xxhash.Sum64String(values[0])
	for _, v := range values[1:] {
		d := xxhash.NewWithSeed(hash)
		_, _ = d.WriteString(v) // it never fails
		hash = d.Sum64()
	}
	return hash, true
}

// hashCookie hashes a cookie's value; with a TTL one is made if it is not
// there or empty.
func hashCookie(c *config.HashCookie, r *Request, cookies *[]string) (uint64, bool) {
	v, _ := cookie(r.Head, c.Name)
	switch {
	case v != "":
		return xxhash.Sum64String(v), true
	case c.TTL == nil || cookies == nil:
		return 0, false
	}
	v = newCookie(r)
	*cookies = append(*cookies, setCookie(c, v))
	return xxhash.Sum64String(v), true
}

// newCookie is the same for all requests of a connection, so that those that
// come at once go to the same host.
func newCookie(r *Request) string {
	conn := r.Info
	if conn.HTTP != nil && conn.HTTP.Connection != nil {
		conn = conn.HTTP.Connection
	}
	return fmt.Sprintf("%016x", xxhash.Sum64String(conn.Remote.String()+conn.Local.String()))
}

func setCookie(c *config.HashCookie, value string) string {
	var b strings.Builder
	b.WriteString(c.Name + `="` + value + `"`)
	if s := int64(c.TTL.Seconds()); s != 0 {
		b.WriteString("; Max-Age=" + strconv.FormatInt(s, 10))
	}
	if c.Path != "" {
		b.WriteString("; Path=" + c.Path)
	}
	for _, a := range c.Attributes {
		b.WriteString("; " + a[0])
		if a[1] != "" {
			b.WriteString("=" + a[1])
		}
	}
	b.WriteString("; HttpOnly")
	return b.String()
}
