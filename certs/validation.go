package certs

import "slices"

// Merge is the dynamic validation context laid over v, as Envoy's
// combined_validation_context merges protos: what is single in the dynamic one
// wins if it is set, lists are joined, flags are ORed. Either may be nil.
func (v *Validation) Merge(dynamic *Validation) *Validation {
	switch {
	case v == nil:
		return dynamic
	case dynamic == nil:
		return v
	}
	out := *v
	if len(dynamic.Roots) > 0 {
		out.Roots, out.RootsPath = dynamic.Roots, dynamic.RootsPath
	}
	if len(dynamic.CRLs) > 0 {
		out.CRLs = dynamic.CRLs
	}
	if dynamic.MaxVerifyDepth != nil {
		out.MaxVerifyDepth = dynamic.MaxVerifyDepth
	}
	if dynamic.TrustDomains != nil {
		out.TrustDomains = dynamic.TrustDomains
	}
	out.SANs = slices.Concat(v.SANs, dynamic.SANs)
	out.SPKIHashes = slices.Concat(v.SPKIHashes, dynamic.SPKIHashes)
	out.CertHashes = slices.Concat(v.CertHashes, dynamic.CertHashes)
	out.OnlyLeafCRL = v.OnlyLeafCRL || dynamic.OnlyLeafCRL
	out.AcceptUntrusted = v.AcceptUntrusted || dynamic.AcceptUntrusted
	out.AllowExpired = v.AllowExpired || dynamic.AllowExpired
	return &out
}

// DemandsCertificate reports whether a client without a certificate cannot be
// accepted, whatever the context says about optional ones: there is a list that
// it must match, or SPIFFE bundles, and untrusted ones are not accepted
// (Envoy: SSL_VERIFY_FAIL_IF_NO_PEER_CERT).
func (v *Validation) DemandsCertificate() bool {
	switch {
	case v == nil:
		return false
	case v.TrustDomains != nil:
		return true
	}
	return !v.AcceptUntrusted && v.hasList()
}

// Verifies reports whether there is anything to verify a certificate with.
func (v *Validation) Verifies() bool {
	return v != nil && (len(v.Roots) > 0 || v.TrustDomains != nil || v.hasList())
}

// AcceptsAny reports whether a certificate that does not verify is accepted all
// the same. SPIFFE bundles are not open to that (Envoy's SPIFFE validator).
func (v *Validation) AcceptsAny() bool {
	return v != nil && v.AcceptUntrusted && v.TrustDomains == nil
}

func (v *Validation) hasList() bool { return len(v.SANs)+len(v.SPKIHashes)+len(v.CertHashes) > 0 }
