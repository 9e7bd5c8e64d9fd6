// Package identity holds who a workload is and whom it trusts, whatever the
// source, and gives both out as the secrets that proxies ask for by name.
//
// A Source (an authority that signs requests, files, the SPIFFE Workload API)
// brings certificates and roots to a Keeper; the Keeper checks them, orders
// them (a root is trusted before a certificate of it is served) and publishes
// them on certs.Handles, which an SDS server or a proxy in this process reads.
package identity

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// Source keeps a Keeper fed until ctx ends. It calls Attempt before each try,
// Fail after one that brought nothing, Trust with every set of roots and Serve
// with every set of certificates. It gives up on nothing: an error is returned
// only for what can never work.
type Source interface {
	Run(ctx context.Context, k *Keeper) error
}

// Issuer gets one new certificate with a new key from an authority. An answer
// that does not hold is an error; what is returned has been checked.
type Issuer interface {
	Issue(ctx context.Context) (*Issued, error)
}

// Issued is what an authority answered to one certificate signing request.
type Issued struct {
	// KeyPair is the new key with its chain: leaf first, no root.
	KeyPair *certs.KeyPair
	// Roots is the bundle that came with it, to be trusted for the trust
	// domain of KeyPair.ID. It has at least one certificate.
	Roots []*x509.Certificate
	// Clock is what the answer said about the authority's clock.
	Clock Clock
}

// Clock is an authority's clock as seen from here.
type Clock struct {
	// Ahead is how much further the authority's clock is than ours; negative
	// if it is behind. It is only good to within Margin.
	Ahead, Margin time.Duration
	// From says how it was measured: "time header" (our own authority's),
	// "date header", "NotBefore"; "" for not at all.
	From string
}

// The names that proxies ask for (Istio: security.WorkloadKeyCertResourceName,
// RootCertReqResourceName; SPIRE: "ALL", a SPIFFE ID, a trust domain's ID).
const (
	DefaultName = "default" // the first certificate
	RootsName   = "ROOTCA"  // the roots for verifying peers
	AllName     = "ALL"     // all bundles, each for its own trust domain
)

// Root is one trust anchor that is trusted now.
type Root struct {
	Cert        *x509.Certificate
	TrustDomain spiffeid.TrustDomain
	// From are the sources that name it, in the order of their names.
	From []string
	// Since is when it was first trusted here.
	Since time.Time
}
