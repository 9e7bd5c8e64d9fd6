package jwtauthn

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// token is a JSON Web Token that is well formed. Nothing of it is true before
// its signature is verified.
type token struct {
	raw             string
	alg, kid        string
	iss, sub        string
	iat, nbf, exp   uint64 // Unix seconds; 0: the claim is not there
	audiences       []string
	header, payload *structpb.Struct
	payloadBase64   string // as it is in the token
}

// algorithms are those that Envoy 1.40 verifies.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.ES256, jose.ES384, jose.ES512, jose.HS256, jose.HS384, jose.HS512, jose.RS256, jose.RS384, jose.RS512,
		jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
	}
}

// parse takes a token apart.
func parse(raw string) (*token, status) {
	var sections []string
	for s := range strings.SplitSeq(raw, ".") {
		if s != "" {
			sections = append(sections, s)
		}
	}
	if len(sections) != 3 {
		return nil, badFormat
	}
	t := &token{raw: raw, payloadBase64: sections[1]}
	if st := t.parseHeader(sections[0]); st != ok {
		return nil, st
	}
	text, err := decode(sections[1])
	if err != nil {
		return nil, payloadBadBase64
	}
	if t.payload, err = object(text); err != nil {
		return nil, payloadBadJSON
	}
	if st := t.parseClaims(); st != ok {
		return nil, st
	}
	if _, err := decode(sections[2]); err != nil {
		return nil, signatureBadBase64
	}
	return t, ok
}

func (t *token) parseHeader(section string) status {
	text, err := decode(section)
	if err != nil {
		return headerBadBase64
	}
	if t.header, err = object(text); err != nil {
		return headerBadJSON
	}
	alg, is := t.header.GetFields()["alg"].GetKind().(*structpb.Value_StringValue)
	if !is {
		return headerBadAlg
	}
	if t.alg = alg.StringValue; !slices.Contains(algorithms(), jose.SignatureAlgorithm(t.alg)) {
		return headerUnknownAlg
	}
	if !textClaim(t.header, "kid", &t.kid) {
		return headerBadKid
	}
	return ok
}

func (t *token) parseClaims() status {
	if !textClaim(t.payload, "iss", &t.iss) {
		return issNotString
	}
	if !textClaim(t.payload, "sub", &t.sub) {
		return subNotString
	}
	for _, c := range []struct {
		name          string
		into          *uint64
		not, outRange status
	}{
		{"iat", &t.iat, iatNotInteger, iatOutOfRange},
		{"nbf", &t.nbf, nbfNotInteger, nbfOutOfRange},
		{"exp", &t.exp, expNotInteger, expOutOfRange},
	} {
		v, there := t.payload.GetFields()[c.name]
		if !there {
			continue
		}
		n, is := v.GetKind().(*structpb.Value_NumberValue)
		switch {
		case !is:
			return c.not
		case n.NumberValue < 0 || n.NumberValue >= math.MaxUint64:
			return c.outRange
		}
		*c.into = uint64(n.NumberValue)
	}
	var jti string
	if !textClaim(t.payload, "jti", &jti) {
		return jtiNotString
	}
	return t.parseAudiences()
}

// parseAudiences takes a string or a list of strings.
func (t *token) parseAudiences() status {
	switch v := t.payload.GetFields()["aud"].GetKind().(type) {
	case nil:
	case *structpb.Value_StringValue:
		t.audiences = []string{v.StringValue}
	case *structpb.Value_ListValue:
		for _, one := range v.ListValue.GetValues() {
			s, is := one.GetKind().(*structpb.Value_StringValue)
			if !is {
				return audNotString
			}
			t.audiences = append(t.audiences, s.StringValue)
		}
	default:
		return audNotString
	}
	return ok
}

// textClaim is false if the claim is there and no string.
func textClaim(s *structpb.Struct, name string, into *string) bool {
	v, there := s.GetFields()[name]
	if !there {
		return true
	}
	text, is := v.GetKind().(*structpb.Value_StringValue)
	if is {
		*into = text.StringValue
	}
	return is
}

// decode is base64url, padded or not, with white space that is no part of it.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, " \t") {
		s = strings.NewReplacer(" ", "", "\t", "").Replace(s)
	}
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

func object(text []byte) (*structpb.Struct, error) {
	out := &structpb.Struct{}
	return out, protojson.Unmarshal(text, out)
}

// inTime checks nbf and exp; a token without them is always valid.
func (t *token) inTime(now time.Time, skew time.Duration) status {
	seconds, allowed := uint64(max(now.Unix(), 0)), uint64(skew/time.Second)
	if seconds+allowed < t.nbf {
		return notYetValid
	}
	if t.exp != 0 && seconds > t.exp && seconds-t.exp > allowed {
		return expired
	}
	return ok
}
