package csr

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// maxToken bounds a token file. Projected tokens are about 1 KiB; gRPC servers
// refuse more than 16 KiB of headers by default.
const maxToken = 16 << 10

// token is one reading of the token file. The zero token is no token.
type token struct {
	path  string
	value string // never in an error, never in a log
	// notBefore and expires are its own claims; zero if it has none, or is no
	// JWT. The authority judges them, by its own clock.
	notBefore, expires time.Time
}

// readToken reads the token; a file that is not there is no token.
func readToken(path string) (token, error) {
	if path == "" {
		return token{}, nil
	}
	text, err := readBounded(path, maxToken)
	if errors.Is(err, fs.ErrNotExist) {
		return token{path: path}, nil
	}
	if err != nil {
		return token{}, &TokenError{Path: path, Err: err}
	}
	t := token{path: path, value: strings.TrimSpace(string(text))}
	if t.value == "" {
		return token{}, &TokenError{Path: path, Err: errors.New("it is empty")}
	}
	if at := strings.IndexFunc(t.value, func(r rune) bool { return r <= ' ' || r > '~' }); at >= 0 {
		return token{}, &TokenError{Path: path, Err: fmt.Errorf("byte %d cannot be in a token", at)}
	}
	t.notBefore, t.expires = claims(t.value)
	return t, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, err
}

// claims are nbf and exp of a JWT (RFC 7519, section 4.1), which is not
// verified: that is the authority's part.
func claims(jwt string) (notBefore, expires time.Time) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return time.Time{}, time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, time.Time{}
	}
	var said struct{ Nbf, Exp float64 }
	if err := json.Unmarshal(payload, &said); err != nil {
		return time.Time{}, time.Time{}
	}
	return numericDate(said.Nbf), numericDate(said.Exp)
}

// maxDate is the end of the year 9999, in seconds since 1970.
const maxDate = 253402300799

// numericDate is a JWT's date; zero for one that is not there, or that is
// after the year 9999.
func numericDate(seconds float64) time.Time {
	if seconds <= 0 || seconds > maxDate {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// missing says that there is nothing to send.
func (t token) missing() bool { return t.value == "" }

// expired says that the token's own claim has passed by our clock.
func (t token) expired(now time.Time) bool { return !t.expires.IsZero() && !now.Before(t.expires) }

// describe says for people which token it was, and what is doubtful about it.
func (t token) describe(now time.Time) string {
	switch {
	case t.path == "":
		return "no token"
	case t.missing():
		return fmt.Sprintf("no token (%s does not exist)", t.path)
	case t.expired(now):
		return fmt.Sprintf("the token of %s, which expired at %s, %s ago by our clock (%s)", t.path, stamp(t.expires), round(now.Sub(t.expires)), stamp(now))
	case now.Before(t.notBefore):
		return fmt.Sprintf("the token of %s, which is not valid before %s, in %s by our clock (%s)", t.path, stamp(t.notBefore), round(t.notBefore.Sub(now)), stamp(now))
	}
	return "the token of " + t.path
}

// scrubbed is the length from which a piece of the token is taken out of what
// the authority says: shorter ones are words, or harmless.
const scrubbed = 12

// scrub takes every piece of the token out of what the authority says.
func (t token) scrub(text string) string {
	if t.missing() {
		return text
	}
	size := min(scrubbed, len(t.value))
	pieces := map[string]bool{}
	for i := 0; i+size <= len(t.value); i++ {
		pieces[t.value[i:i+size]] = true
	}
	var out strings.Builder
	hidden := 0 // up to here text belongs to the token
	for i := range len(text) {
		if i+size <= len(text) && pieces[text[i:i+size]] {
			if i >= hidden {
				out.WriteString("[token]")
			}
			hidden = i + size
		}
		if i >= hidden {
			out.WriteByte(text[i])
		}
	}
	return out.String()
}
