package accesslog

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// addHTTP has what only an HTTP request has: for a TCP connection there is
// nothing, as in Envoy.
func addHTTP(all map[string]spec) {
	for name, f := range map[string]func(*flow.HTTP) string{
		"PROTOCOL":             func(h *flow.HTTP) string { return h.Protocol.String() },
		"UPSTREAM_PROTOCOL":    func(h *flow.HTTP) string { return h.Upstream.String() },
		"VIRTUAL_CLUSTER_NAME": func(h *flow.HTTP) string { return h.VirtualCluster },
	} {
		all[name] = plain(text(ofHTTP(f)))
	}
	for _, name := range []string{ // there is no tracing, no QUIC, and tls_inspector's fingerprints are refused
		"TRACE_ID", "SPAN_ID", "ROUNDTRIP_DURATION", "TLS_JA3_FINGERPRINT", "TLS_JA4_FINGERPRINT",
	} {
		all[name] = plain(none())
	}
	request := header(func(h *flow.HTTP) *message.Head { return h.Request })
	response := header(func(h *flow.HTTP) *message.Head { return h.Response })
	for name, make := range map[string]func(string) (operator, error){
		"REQ": request, "REQUEST_HEADER": request, "STREAM_INFO_REQ": request,
		"RESP": response, "RESPONSE_HEADER": response, "TRAILER": trailer,
	} {
		all[name] = spec{argument: needsArgument, length: true, make: make}
	}
	all["REQ_WITHOUT_QUERY"] = spec{argument: needsArgument, length: true, make: func(argument string) (operator, error) {
		op, err := request(argument)
		return operator{text: withoutQuery(op)}, err
	}}
	all["RESPONSE_CODE_DETAILS"] = spec{argument: mayHaveArgument, make: details}
	all["QUERY_PARAM"] = spec{argument: needsArgument, length: true, make: queryParam}
	all["QUERY_PARAMS"] = spec{argument: mayHaveArgument, length: true, make: queryParams}
	all["PATH"] = spec{argument: mayHaveArgument, length: true, make: path}
	all["LOCAL_REPLY_BODY"] = plain(operator{text: func(b []byte, e *entry) ([]byte, bool) {
		if h := e.info.HTTP; h != nil {
			b = append(b, h.LocalReplyBody...)
		}
		return b, true
	}})
	addGRPC(all)
	addUpstreamClose(all)
}

// withoutQuery is what op prints, up to a question mark.
func withoutQuery(op operator) func([]byte, *entry) ([]byte, bool) {
	return func(b []byte, e *entry) ([]byte, bool) {
		start := len(b)
		b, ok := op.text(b, e)
		if at := bytes.IndexByte(b[start:], '?'); at >= 0 {
			b = b[:start+at]
		}
		return b, ok
	}
}

// ofHTTP is f of requests, and "" of connections.
func ofHTTP(f func(*flow.HTTP) string) func(*flow.Info) string {
	return func(i *flow.Info) string {
		if i.HTTP == nil {
			return ""
		}
		return f(i.HTTP)
	}
}

// details has no spaces unless ALLOW_WHITESPACES says so.
func details(argument string) (operator, error) {
	return text(ofHTTP(func(h *flow.HTTP) string {
		if argument == "ALLOW_WHITESPACES" {
			return h.Details
		}
		return oneWord(h.Details)
	})), nil
}

// header takes the name of a header, and after a question mark of another that
// stands in where the first is not there.
func header(of func(*flow.HTTP) *message.Head) func(string) (operator, error) {
	return func(argument string) (operator, error) {
		first, other, err := headerNames(argument)
		if err != nil {
			return operator{}, err
		}
		return operator{text: func(b []byte, e *entry) ([]byte, bool) {
			if e.info.HTTP == nil {
				return b, false
			}
			h := of(e.info.HTTP)
			if h == nil {
				return b, false
			}
			value, ok := first.of(h)
			if !ok && other.name != "" {
				value, ok = other.of(h)
			}
			return append(b, value...), ok
		}}, nil
	}
}

func trailer(argument string) (operator, error) {
	first, other, err := headerNames(argument)
	if err != nil {
		return operator{}, err
	}
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		if e.info.HTTP == nil {
			return b, false
		}
		trailers := e.info.HTTP.ResponseTrailers
		value, ok := trailers.Get(first.name)
		if !ok && other.name != "" {
			value, ok = trailers.Get(other.name)
		}
		return append(b, value...), ok
	}}, nil
}

// headerName is a header's name, and whether Envoy makes one of several fields
// of that name when they come. Of others it logs the first.
type headerName struct {
	name   string
	joined bool
}

func (n headerName) of(h *message.Head) (string, bool) {
	if n.joined || n.name == "host" || strings.HasPrefix(n.name, ":") {
		return h.Get(n.name)
	}
	return h.Fields.Get(n.name)
}

func headerNames(argument string) (first, other headerName, err error) {
	names := strings.Split(argument, "?")
	if len(names) > 2 {
		return first, other, fmt.Errorf("%q has more than one alternative", argument)
	}
	for _, name := range names {
		if i := strings.IndexFunc(strings.TrimPrefix(name, ":"), notToken); i >= 0 {
			return first, other, fmt.Errorf("%q is not the name of a header", name)
		}
	}
	all := [2]headerName{}
	for i, name := range names {
		name = strings.ToLower(name)
		all[i] = headerName{name, message.Inline(name)}
	}
	return all[0], all[1], nil
}

// notToken is of RFC 9110, section 5.6.2.
func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

// oneOf is an error if the argument is none of these; the first is "".
func oneOf(argument string, arguments ...string) error {
	if slices.Contains(arguments, argument) {
		return nil
	}
	return fmt.Errorf("%q is none of %s", argument, strings.Join(arguments[1:], ", "))
}

// path takes WQ or NQ, with or without the query, and after a colon which path:
// the original one, the one at the end, or the first of both that is there.
func path(argument string) (operator, error) {
	query, from, _ := strings.Cut(argument, ":")
	if err := oneOf(query, "", "WQ", "NQ"); err != nil {
		return operator{}, err
	}
	if err := oneOf(from, "", "ORIG", "PATH", "ORIG_OR_PATH"); err != nil {
		return operator{}, err
	}
	return text(ofRequest(func(r *message.Head) string {
		out := ""
		if from != "PATH" {
			out = r.Value("x-envoy-original-path")
		}
		if out == "" && from != "ORIG" {
			out = r.Path
		}
		if query == "NQ" {
			out, _, _ = strings.Cut(out, "?")
		}
		return out
	})), nil
}

func ofRequest(f func(*message.Head) string) func(*flow.Info) string {
	return ofHTTP(func(h *flow.HTTP) string {
		if h.Request == nil {
			return ""
		}
		return f(h.Request)
	})
}

// queryParam is the first parameter of that name, decoded; it may be there and
// be empty.
func queryParam(name string) (operator, error) {
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		if e.info.HTTP == nil || e.info.HTTP.Request == nil {
			return b, false
		}
		_, query, _ := strings.Cut(e.info.HTTP.Request.Path, "?")
		for query != "" {
			var one string
			one, query, _ = strings.Cut(query, "&")
			key, value, _ := strings.Cut(one, "=")
			if unescaped(key) == name {
				return append(b, unescaped(value)...), true
			}
		}
		return b, false
	}}, nil
}

// queryParams is all that is behind the question mark.
func queryParams(argument string) (operator, error) {
	if err := oneOf(argument, "", "ORIG", "DECODED"); err != nil {
		return operator{}, err
	}
	return text(ofRequest(func(r *message.Head) string {
		_, query, _ := strings.Cut(r.Path, "?")
		if argument == "DECODED" {
			return unescapedQuery(query)
		}
		return query
	})), nil
}

// unescapedQuery decodes those %XX that stand for themselves in a query: not
// control characters and spaces, and what URLs have no place for. A % before
// what is no two digits is lost. Envoy has it so.
func unescapedQuery(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			continue
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		switch c := byte(n); {
		case err != nil:
			continue
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`"<>\^{|}`, c) >= 0:
			out = append(out, s[i:i+3]...)
		default:
			out = append(out, c)
		}
		i += 2
	}
	return string(out)
}

// unescaped decodes %XX; what is no such thing stays as it is.
func unescaped(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}
