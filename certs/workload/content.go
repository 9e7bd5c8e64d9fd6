package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"outrider/certs"
	"outrider/certs/identity"
)

// content is one update, checked.
type content struct {
	bundles []identity.Bundle
	pairs   []*certs.KeyPair // the default one first
}

// read checks an update without changing anything. go-spiffe has seen to it
// that each key fits, and that each leaf is one of SPIFFE's.
func (s *Source) read(x *workloadapi.X509Context) (*content, error) {
	svids, err := s.defaultFirst(x.SVIDs)
	if err != nil {
		return nil, err
	}
	out := &content{}
	if out.bundles, err = readBundles(x.Bundles); err != nil {
		return nil, err
	}
	var errs []error
	for i, svid := range svids {
		pair, err := s.readSVID(svid, x.Bundles)
		switch {
		case err == nil:
			out.pairs = append(out.pairs, pair)
		case i > 0 && isExpired(err):
			// The agent could not renew one of several: the others are none the
			// worse for it.
			s.opts.Log.Warn("certificate is left out", "spiffe_id", svid.ID.String(), "reason", err)
		default:
			errs = append(errs, fmt.Errorf("certificate of %s: %w", svid.ID, err))
		}
	}
	return out, errors.Join(errs...)
}

// defaultFirst are the certificates with the default one in front.
func (s *Source) defaultFirst(svids []*x509svid.SVID) ([]*x509svid.SVID, error) {
	i := 0
	switch {
	case !s.opts.DefaultID.IsZero():
		i = slices.IndexFunc(svids, func(v *x509svid.SVID) bool { return v.ID == s.opts.DefaultID })
	case s.opts.DefaultHint != "":
		i = slices.IndexFunc(svids, func(v *x509svid.SVID) bool { return v.Hint == s.opts.DefaultHint })
	}
	if len(svids) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	if i < 0 {
		return nil, fmt.Errorf("the default certificate, %s, is not among %s", s.wanted(), list(svids))
	}
	out := append([]*x509svid.SVID{svids[i]}, svids[:i]...)
	return append(out, svids[i+1:]...), nil
}

func (s *Source) wanted() string {
	if s.opts.DefaultHint != "" {
		return fmt.Sprintf("with hint %q", s.opts.DefaultHint)
	}
	return s.opts.DefaultID.String()
}

func list(svids []*x509svid.SVID) string {
	names := make([]string, 0, len(svids))
	for _, v := range svids {
		names = append(names, fmt.Sprintf("%s (hint %q)", v.ID, v.Hint))
	}
	return strings.Join(names, ", ")
}

// readSVID checks a certificate with the bundle that came with it.
func (s *Source) readSVID(svid *x509svid.SVID, set *x509bundle.Set) (*certs.KeyPair, error) {
	chain, key, err := svid.Marshal()
	if err != nil {
		return nil, err
	}
	pair, err := certs.ParseKeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	own, ok := set.Get(svid.ID.TrustDomain())
	if !ok {
		return nil, fmt.Errorf("there is no bundle of trust domain %q with it", svid.ID.TrustDomain())
	}
	if err := identity.VerifyChain(pair, own.X509Authorities()); err != nil {
		return nil, err
	}
	err = identity.ValidAt(pair, time.Now())
	if isExpired(err) {
		return nil, err
	}
	if err != nil {
		// It will not be pushed again, and peers whose clocks are right take it.
		s.opts.Log.Warn("certificate is served though this host's clock does not take it yet", "reason", err)
	}
	return pair, nil
}

func isExpired(err error) bool {
	var t *identity.TimeError
	return errors.As(err, &t) && t.Expired
}

// readBundles are all bundles, each for its own trust domain. An empty one is
// refused: it would trust nobody, or what is left over from others.
func readBundles(set *x509bundle.Set) ([]identity.Bundle, error) {
	var out []identity.Bundle
	var empty []spiffeid.TrustDomain
	for _, b := range set.Bundles() {
		if len(b.X509Authorities()) == 0 {
			empty = append(empty, b.TrustDomain())
			continue
		}
		out = append(out, identity.Bundle{TrustDomain: b.TrustDomain(), Roots: b.X509Authorities()})
	}
	switch {
	case len(empty) > 0:
		return nil, fmt.Errorf("the bundle of trust domain %q is empty", empty[0])
	case len(out) == 0:
		return nil, errors.New("there is no bundle in it")
	}
	return out, nil
}
