package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// publishRoots brings every handle of roots up to date; mu is held.
func (k *Keeper) publishRoots() {
	for name, h := range k.handles {
		if isRoots(name) {
			k.publish(name, h)
		}
	}
}

// publishPairs gives every handle of a certificate what is served now, which
// also says that the failures before are over; mu is held.
func (k *Keeper) publishPairs() {
	for name, h := range k.handles {
		if isRoots(name) {
			continue
		}
		if s := k.secret(name); s != nil {
			h.Publish(s)
		}
	}
}

// publish brings one handle up to date; mu is held. A handle whose content is
// what it was keeps its version.
func (k *Keeper) publish(name string, h *certs.Handle) {
	s := k.secret(name)
	if s == nil {
		return
	}
	if current, err := h.Current(); err == nil && current.Version == s.Version {
		return
	}
	h.Publish(s)
}

// secret is what a name stands for now, nil if that is not known; mu is held.
func (k *Keeper) secret(name string) *certs.Secret {
	switch name {
	case DefaultName:
		if len(k.pairs) > 0 {
			return k.pairSecret(name, k.pairs[0])
		}
		return nil
	case RootsName:
		return k.rootsSecret(name, k.opts.PerTrustDomain || len(k.opts.Aliases) > 0 || len(k.bundles.domains()) > 1)
	case AllName:
		return k.rootsSecret(name, true)
	}
	id, err := parseName(name)
	if err != nil {
		return nil
	}
	if id.Path() == "" {
		roots := k.bundles.of(k.canonical(id.TrustDomain()))
		if len(roots) == 0 {
			return nil
		}
		return k.trustSecret(name, &certs.Validation{Roots: roots})
	}
	for _, p := range k.pairs {
		if p.ID == id {
			return k.pairSecret(name, p)
		}
	}
	return nil
}

func (k *Keeper) pairSecret(name string, p *certs.KeyPair) *certs.Secret {
	sum := sha256.New()
	for _, der := range p.TLS.Certificate {
		sum.Write(der)
	}
	return &certs.Secret{Name: name, Version: hex.EncodeToString(sum.Sum(nil)[:8]), Updated: time.Now(), From: k.from, KeyPair: p}
}

// rootsSecret is the roots for verifying peers: those of our own trust domain,
// or each trust domain's for its own members. mu is held.
func (k *Keeper) rootsSecret(name string, perDomain bool) *certs.Secret {
	if !perDomain {
		roots := k.bundles.of(k.own())
		if len(roots) == 0 {
			return nil
		}
		return k.trustSecret(name, &certs.Validation{Roots: roots})
	}
	by := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for _, td := range k.bundles.domains() {
		by[td] = k.bundles.of(td)
	}
	for alias, td := range k.opts.Aliases {
		if roots := by[td]; len(roots) > 0 && len(by[alias]) == 0 {
			by[alias] = roots
		}
	}
	if len(by) == 0 {
		return nil
	}
	return k.trustSecret(name, &certs.Validation{TrustDomains: by})
}

// trustSecret is v as a secret; its version is the digest of its roots. mu is
// held.
func (k *Keeper) trustSecret(name string, v *certs.Validation) *certs.Secret {
	sum := sha256.New()
	add := func(td string, roots []*x509.Certificate) {
		fmt.Fprintf(sum, "%s %d\n", td, len(roots))
		for _, c := range roots {
			sum.Write(c.Raw)
		}
	}
	add("", v.Roots)
	for _, td := range slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare) {
		add(td.Name(), v.TrustDomains[td])
	}
	return &certs.Secret{
		Name: name, Version: hex.EncodeToString(sum.Sum(nil)[:8]), Updated: time.Now(),
		From: strings.Join(k.bundles.sources(), ", "), Validation: v,
	}
}

// own is the workload's trust domain; mu is held.
func (k *Keeper) own() spiffeid.TrustDomain {
	if !k.opts.TrustDomain.IsZero() {
		return k.opts.TrustDomain
	}
	if len(k.pairs) > 0 {
		return k.pairs[0].ID.TrustDomain()
	}
	if d := k.bundles.domains(); len(d) == 1 {
		return d[0]
	}
	return spiffeid.TrustDomain{}
}

// canonical is the trust domain whose bundle stands for td.
func (k *Keeper) canonical(td spiffeid.TrustDomain) spiffeid.TrustDomain {
	if to, ok := k.opts.Aliases[td]; ok {
		return to
	}
	return td
}
