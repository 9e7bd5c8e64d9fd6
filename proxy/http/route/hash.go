package route

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"outrider/proxy/config"
)

// hashPolicy is one criterion of the hash.
type hashPolicy struct {
	cfg     *config.HashPolicy
	rewrite *substitution
}

func compileHash(list []config.HashPolicy) ([]hashPolicy, error) {
	var out []hashPolicy
	for i := range list {
		p := hashPolicy{cfg: &list[i]}
		if list[i].HeaderRegex != nil {
			var err error
			if p.rewrite, err = compileRegex(list[i].HeaderRegex); err != nil {
				return nil, fmt.Errorf("hash_policy[%d]: %w", i, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// Hash is the hash that chooses the host, over all policies that have
// something to say; ok is false if none has. cookie is the Set-Cookie field
// that the answer must have, "" for none.
func (m *Match) Hash(r *Request) (hash uint64, cookie string, ok bool) {
	if m.entry == nil {
		return 0, "", false
	}
	for i := range m.entry.hash {
		p := &m.entry.hash[i]
		one, set, has := p.one(r)
		if set != "" {
			cookie = set
		}
		if has { // rotated, that the order of policies counts
			if ok {
				hash = bits.RotateLeft64(hash, 1) ^ one
			} else {
				hash = one
			}
			ok = true
		}
		if p.cfg.Terminal && ok {
			break
		}
	}
	return hash, cookie, ok
}

func (p *hashPolicy) one(r *Request) (hash uint64, set string, ok bool) {
	switch c := p.cfg; {
	case c.Header != "":
		v, has := r.Head.Get(c.Header)
		if has && p.rewrite != nil {
			v = p.rewrite.apply(v)
		}
		return xxhash.Sum64String(v), "", has
	case c.Cookie != nil:
		return hashCookie(c.Cookie, r)
	case c.SourceIP:
		if !r.Info.Remote.IsIP() {
			return 0, "", false
		}
		return xxhash.Sum64String(r.Info.Remote.Addr().Unmap().String()), "", true
	case c.Query != "":
		for _, q := range query(r.Head.Path) {
			if q[0] == c.Query {
				return xxhash.Sum64String(q[1]), "", true
			}
		}
	case c.FilterState != "":
		if v, has := r.Info.FilterState[c.FilterState]; has {
			return xxhash.Sum64String(v), "", true
		}
	}
	return 0, "", false
}

// hashCookie hashes a cookie's value; with a TTL one is made if there is none.
func hashCookie(c *config.HashCookie, r *Request) (hash uint64, set string, ok bool) {
	v, has := cookie(r.Head, c.Name)
	if has {
		return xxhash.Sum64String(v), "", true
	}
	if c.TTL == nil {
		return 0, "", false
	}
	seed := r.Info.Remote.String() + r.Info.Local.String()
	v = fmt.Sprintf("%016x", xxhash.Sum64String(seed))
	var b strings.Builder
	b.WriteString(c.Name + `="` + v + `"`)
	if *c.TTL > 0 {
		b.WriteString("; Max-Age=" + strconv.FormatInt(int64(c.TTL.Seconds()), 10))
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
	return xxhash.Sum64String(v), b.String(), true
}
