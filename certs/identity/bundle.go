package identity

import (
	"cmp"
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bundle is a set of roots for one trust domain.
type Bundle struct {
	TrustDomain spiffeid.TrustDomain
	Roots       []*x509.Certificate
}

// bundles is the union of what several sources say is to be trusted, by trust
// domain.
type bundles struct {
	roots map[anchor]*Root
}

// anchor is one root in one trust domain, by its DER.
type anchor struct {
	td  spiffeid.TrustDomain
	der string
}

// replace makes what from says the whole of what it says. It reports whether
// the union has changed.
func (b *bundles) replace(from string, said []Bundle, now time.Time) bool {
	wanted := map[anchor]*x509.Certificate{}
	for _, s := range said {
		for _, c := range s.Roots {
			wanted[anchor{s.TrustDomain, string(c.Raw)}] = c
		}
	}
	changed := b.withdraw(from, wanted)
	if b.roots == nil {
		b.roots = map[anchor]*Root{}
	}
	for key, cert := range wanted {
		r := b.roots[key]
		if r == nil {
			r = &Root{Cert: cert, TrustDomain: key.td, Since: now}
			b.roots[key] = r
			changed = true
		}
		if !slices.Contains(r.From, from) {
			r.From = append(r.From, from)
			slices.Sort(r.From)
		}
	}
	return changed
}

// withdraw takes from's word off every root that is not wanted; a root that
// nobody names any more goes.
func (b *bundles) withdraw(from string, wanted map[anchor]*x509.Certificate) (changed bool) {
	for key, r := range b.roots {
		if wanted[key] != nil {
			continue
		}
		r.From = slices.DeleteFunc(r.From, func(s string) bool { return s == from })
		if len(r.From) == 0 {
			delete(b.roots, key)
			changed = true
		}
	}
	return changed
}

// of are the roots of one trust domain, oldest first.
func (b *bundles) of(td spiffeid.TrustDomain) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range b.list() {
		if r.TrustDomain == td {
			out = append(out, r.Cert)
		}
	}
	return out
}

// domains are the trust domains that have roots, in order.
func (b *bundles) domains() []spiffeid.TrustDomain {
	seen := map[spiffeid.TrustDomain]bool{}
	for key := range b.roots {
		seen[key.td] = true
	}
	return slices.SortedFunc(maps.Keys(seen), spiffeid.TrustDomain.Compare)
}

// sources are the names of all that say something.
func (b *bundles) sources() []string {
	seen := map[string]bool{}
	for _, r := range b.roots {
		for _, from := range r.From {
			seen[from] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// list are all roots, by trust domain, oldest first.
func (b *bundles) list() []Root {
	out := make([]Root, 0, len(b.roots))
	for _, r := range b.roots {
		one := *r
		one.From = slices.Clone(r.From)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, z Root) int {
		return cmp.Or(a.TrustDomain.Compare(z.TrustDomain), a.Since.Compare(z.Since), slices.Compare(a.Cert.Raw, z.Cert.Raw))
	})
	return out
}
