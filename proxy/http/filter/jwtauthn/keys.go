package jwtauthn

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// keys are those of a JWK set that can verify something.
type keys []jose.JSONWebKey

var errNoKeys = errors.New("no key of the JWK set can be used")

// parseKeys parses a JWK set (RFC 7517). Keys that are of no use to us are left
// out, as in Envoy; without any other it is an error.
func parseKeys(text []byte) (keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("the JWK set is no JSON: %w", err)
	}
	var out keys
	var refused []error
	for i, raw := range set.Keys {
		var k jose.JSONWebKey
		err := json.Unmarshal(raw, &k)
		if err == nil && k.Key == nil {
			err = errors.New("has no key")
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("keys[%d]: %w", i, err))
			continue
		}
		if _, symmetric := k.Key.([]byte); !symmetric {
			k = k.Public() // a set with private keys verifies as well
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, errors.Join(append([]error{errNoKeys}, refused...)...)
	}
	return out, nil
}

// verify checks the signature by each key whose ID and algorithm, if it has
// them, are the token's.
func (ks keys) verify(t *token) status {
	signed, err := jose.ParseSignedCompact(t.raw, algorithms())
	if err != nil {
		return verificationFail
	}
	matched := false
	for i := range ks {
		k := &ks[i]
		if t.kid != "" && k.KeyID != "" && k.KeyID != t.kid || k.Algorithm != "" && k.Algorithm != t.alg {
			continue
		}
		matched = true
		if _, err := signed.Verify(k.Key); err == nil {
			return ok
		}
	}
	if !matched {
		return kidAlgMismatch
	}
	return verificationFail
}
