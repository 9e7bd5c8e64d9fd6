package jwtauthn

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// requirement is a tree of what a request needs.
type requirement struct {
	// provider and audiences are of one provider; nil provider for the others.
	provider  *provider
	audiences []string // in place of the provider's, if not empty
	any, all  []*requirement
	// allowMissing and allowFailed take tokens of any provider in by.
	allowMissing, allowFailed bool
	by                        []*provider
	places                    *places
}

// compile makes the tree. beside are the providers that stand beside it in a
// requires_any: allow_missing looks at their tokens only; nil for all there are.
func (f *factory) compile(c *config.JWTRequirement, beside []*provider) (*requirement, error) {
	switch {
	case c == nil:
		return nil, nil
	case c.Any != nil:
		return f.compileAny(c.Any)
	case c.All != nil:
		out := &requirement{}
		for _, one := range c.All {
			r, err := f.compile(one, nil)
			if err != nil {
				return nil, err
			}
			out.all = append(out.all, r)
		}
		return out, nil
	case c.AllowMissing, c.AllowMissingOrFailed:
		if beside == nil {
			for _, name := range slices.Sorted(maps.Keys(f.providers)) {
				beside = append(beside, f.providers[name])
			}
		}
		var all []*config.JWTProvider
		for _, p := range beside {
			all = append(all, p.cfg)
		}
		return &requirement{allowMissing: true, allowFailed: c.AllowMissingOrFailed, by: beside, places: placesOf(all...)}, nil
	}
	p := f.providers[c.Provider]
	if p == nil {
		return nil, fmt.Errorf("provider %q is not configured", c.Provider)
	}
	return &requirement{provider: p, audiences: c.Audiences, places: placesOf(p.cfg)}, nil
}

// compileAny puts the one that lets missing tokens pass to the end; of several
// the most lenient is left, as in Envoy.
func (f *factory) compileAny(list []*config.JWTRequirement) (*requirement, error) {
	out := &requirement{}
	var beside []*provider
	var lenient *config.JWTRequirement
	for _, c := range list {
		if c.AllowMissing || c.AllowMissingOrFailed {
			if lenient == nil || lenient.AllowMissing {
				lenient = c
			}
			continue
		}
		if p := f.providers[c.Provider]; p != nil {
			beside = append(beside, p)
		}
		r, err := f.compile(c, nil)
		if err != nil {
			return nil, err
		}
		out.any = append(out.any, r)
	}
	if lenient != nil {
		r, err := f.compile(lenient, beside)
		if err != nil {
			return nil, err
		}
		out.any = append(out.any, r)
	}
	return out, nil
}

// missing are the providers whose keys have to be fetched before the request
// can be judged: those that have a token in it with which all is well but what
// only a key can tell.
func (r *requirement) missing(h *message.Head) []*provider {
	var out []*provider
	for _, one := range slices.Concat(r.any, r.all) {
		if one == nil {
			continue
		}
		for _, p := range one.missing(h) {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	if r.places == nil {
		return out
	}
	v := &verification{head: h, now: time.Now()}
	for _, at := range r.places.find(h) {
		_, p, st := r.check(v, at)
		if st == ok && p.source.remote != nil && p.source.current(v.now) == nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// verify judges, and does to the request what good tokens are to do.
func (r *requirement) verify(v *verification) status {
	switch {
	case r == nil:
		return ok
	case r.any != nil:
		return r.verifyAny(v)
	case r.all != nil:
		for _, one := range r.all {
			if st := one.verify(v); st != ok {
				return st
			}
		}
		return ok
	}
	return r.verifyTokens(v)
}

// verifyAny tells of the failure that says most: that there was no token of one
// provider is nothing, if the other's was wrong.
func (r *requirement) verifyAny(v *verification) status {
	worst := missed
	for _, one := range r.any {
		st := one.verify(v)
		switch {
		case st == ok:
			return ok
		case st == missed, st == unknownIssuer && worst != missed:
		default:
			worst = st
		}
	}
	return worst
}

// verifyTokens wants all tokens to be good: the upstream may look at another
// than we do.
func (r *requirement) verifyTokens(v *verification) status {
	for _, name := range r.places.sanitize {
		v.head.Fields.Del(name)
	}
	last := missed
	for _, at := range r.places.find(v.head) {
		st := r.verifyOne(v, at)
		if last = st; st != ok {
			v.failedWith(r.provider, st)
			if !r.allowMissing {
				return st
			}
		}
	}
	switch {
	case r.allowFailed, r.allowMissing && last == missed:
		return ok
	case last == missed:
		v.failedWith(r.provider, missed)
	}
	return last
}

func (r *requirement) verifyOne(v *verification, at found) status {
	t, p, st := r.check(v, at)
	if st != ok {
		return st
	}
	ks := p.source.current(v.now)
	switch {
	case v.failed[p], ks == nil && p.source.remote != nil:
		return fetchFail
	case ks == nil:
		return noValidKeys
	}
	if st := ks.verify(t); st != ok {
		return st
	}
	v.good(p, t, at)
	return ok
}

// check is all but the signature.
func (r *requirement) check(v *verification, at found) (*token, *provider, status) {
	t, st := parse(at.raw)
	if st != ok {
		return nil, nil, st
	}
	if v.misses != nil {
		v.misses.Inc()
	}
	if !at.place.takes(t.iss) {
		return nil, nil, unknownIssuer
	}
	p := r.provider
	if p == nil {
		p = r.byIssuer(t.iss)
	}
	if p == nil {
		return nil, nil, unknownIssuer
	}
	if p.cfg.Subjects != nil && !p.cfg.Subjects.Match(t.sub) {
		return nil, nil, verificationFail
	}
	if !lives(p.cfg, t, v.now) {
		return nil, nil, verificationFail
	}
	if st := t.inTime(v.now, p.cfg.ClockSkew); st != ok {
		return nil, nil, st
	}
	wanted := r.audiences
	if len(wanted) == 0 {
		wanted = p.cfg.Audiences
	}
	if !forAudience(wanted, t.audiences) {
		return nil, nil, audienceNotAllowed
	}
	return t, p, ok
}

// byIssuer is the first provider of that issuer, or else the first of any.
func (r *requirement) byIssuer(issuer string) *provider {
	var whoever *provider
	for _, p := range r.by {
		if p.cfg.Issuer == issuer && issuer != "" {
			return p
		}
		if p.cfg.Issuer == "" && whoever == nil {
			whoever = p
		}
	}
	return whoever
}
