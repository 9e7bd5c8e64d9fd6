package compressor

import (
	"strconv"
	"strings"
)

// outcome is what became of an accept-encoding header; the names are of the
// counters.
type outcome string

const (
	used         outcome = "header_compressor_used"
	overshadowed outcome = "header_compressor_overshadowed"
	identity     outcome = "header_identity"
	wildcard     outcome = "header_wildcard"
	notValid     outcome = "header_not_valid"
	noHeader     outcome = "no_accept_header"
)

// offer is an encoding that one of the request's compressors has.
type offer struct {
	encoding string
	first    bool // choose_first: it wins where the client does not care
}

// choose is the encoding that the client likes best (RFC 9110, section 12.5.3);
// of equals the one that it names first, unless another has choose_first. ""
// is none. What it refuses, by a weight of 0, it does not get through * either.
func choose(accept string, offers []offer) (string, outcome) {
	var best coding
	star, refused := false, map[string]bool{}
	var all []coding
	for one := range strings.SplitSeq(accept, ",") {
		c := parseCoding(one)
		if c.q <= 0 {
			refused[c.name] = true
		}
		all = append(all, c)
	}
	for _, c := range all {
		first, known := false, c.name == "identity"
		for _, o := range offers {
			if o.encoding == c.name {
				known, first = true, o.first
			}
		}
		switch {
		case refused[c.name]:
		case c.name == "*":
			star = true
		case known && (c.q > best.q || c.q == best.q && first && !best.first):
			best = coding{c.name, c.q, first}
		}
	}
	switch {
	case best.name == "identity":
		return "", identity
	case best.name != "":
		return best.name, used
	case star:
		for _, o := range offers {
			if !refused[o.encoding] {
				return o.encoding, wildcard
			}
		}
	}
	return "", notValid
}

// coding is an element of accept-encoding.
type coding struct {
	name  string
	q     float64
	first bool
}

// parseCoding is a coding with its weight: 1 if it says none, 0 if that is no
// number. Names are compared as they are, as in Envoy.
func parseCoding(s string) coding {
	name, params, _ := strings.Cut(s, ";")
	out := coding{name: strings.TrimSpace(name), q: 1}
	for p := range strings.SplitSeq(params, ";") {
		key, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok || !strings.EqualFold(strings.TrimSpace(key), "q") {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(n > 0) {
			n = 0
		}
		out.q = n
	}
	return out
}
