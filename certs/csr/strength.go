package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// checkStrength demands keys and signatures that cannot be forged. The
// signature of a root under itself proves nothing and is not looked at.
func (w wanted) checkStrength(a *answer) error {
	for _, c := range a.all() {
		if !strong(c.PublicKey) {
			return &WeakError{Cert: c, What: "its key, " + kindOf(c.PublicKey) + ","}
		}
		if !selfSigned(c) && !strongSignature(c.SignatureAlgorithm) {
			return &WeakError{Cert: c, What: fmt.Sprintf("its signature, %s,", c.SignatureAlgorithm)}
		}
	}
	return nil
}

// strong says that a key has 112 bits of security or more (NIST SP 800-57).
func strong(public crypto.PublicKey) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return true
	}
	return false
}

// strongSignature names what is taken: all that is known and has no MD5, SHA-1
// or DSA in it.
func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return true
	}
	return false
}

func kindOf(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA on " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", public)
}
