package jwtauthn

import "net/http"

// status is what became of a token; source: the names and numbers of Envoy's
// JwtVerify::Status, in its order.
type status int

const (
	ok status = iota
	missed
	notYetValid
	expired
	badFormat
	headerBadBase64
	headerBadJSON
	headerBadAlg
	headerUnknownAlg
	headerBadKid
	payloadBadBase64
	edWrongLength // crypto/ed25519 finds it: verificationFail
	payloadBadJSON
	issNotString
	subNotString
	iatNotInteger
	iatOutOfRange
	nbfNotInteger
	nbfOutOfRange
	expNotInteger
	expOutOfRange
	jtiNotString
	audNotString
	signatureBadBase64
	unknownIssuer
	audienceNotAllowed
	verificationFail
)

const (
	noValidKeys    status = 31
	kidAlgMismatch status = 32
	fetchFail      status = 40
)

// String is Envoy's text, which is the body of a refusal.
func (s status) String() string {
	switch s {
	case noValidKeys:
		return "Jwks doesn't have any valid public key"
	case kidAlgMismatch:
		return "Jwks doesn't have key to match kid or alg from Jwt"
	case fetchFail:
		return "Jwks remote fetch is failed"
	}
	texts := [...]string{
		ok: "OK", missed: "Jwt is missing", notYetValid: "Jwt not yet valid", expired: "Jwt is expired",
		badFormat:          "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
		headerBadBase64:    "Jwt header is an invalid Base64url encoded",
		headerBadJSON:      "Jwt header is an invalid JSON",
		headerBadAlg:       "Jwt header [alg] field is required and must be a string",
		headerUnknownAlg:   "Jwt header [alg] is not supported",
		headerBadKid:       "Jwt header [kid] field is not a string",
		payloadBadBase64:   "Jwt payload is an invalid Base64url encoded",
		edWrongLength:      "Jwt ED25519 signature is wrong length",
		payloadBadJSON:     "Jwt payload is an invalid JSON",
		issNotString:       "Jwt payload [iss] field is not a string",
		subNotString:       "Jwt payload [sub] field is not a string",
		iatNotInteger:      "Jwt payload [iat] field is not an integer",
		iatOutOfRange:      "Jwt payload [iat] field is not a positive 64 bit integer",
		nbfNotInteger:      "Jwt payload [nbf] field is not an integer",
		nbfOutOfRange:      "Jwt payload [nbf] field is not a positive 64 bit integer",
		expNotInteger:      "Jwt payload [exp] field is not an integer",
		expOutOfRange:      "Jwt payload [exp] field is not a positive 64 bit integer",
		jtiNotString:       "Jwt payload [jti] field is not a string",
		audNotString:       "Jwt payload [aud] field is not a string or string list",
		signatureBadBase64: "Jwt signature is an invalid Base64url encoded",
		unknownIssuer:      "Jwt issuer is not configured",
		audienceNotAllowed: "Audiences in Jwt are not allowed",
		verificationFail:   "Jwt verification fails",
	}
	if s < 0 || int(s) >= len(texts) {
		return ""
	}
	return texts[s]
}

// code is the HTTP status of a refusal.
func (s status) code() int {
	if s == audienceNotAllowed {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}
