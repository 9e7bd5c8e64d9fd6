package accesslog

import (
	"fmt"
	"slices"
	"strings"
)

// addHTTP has what only an HTTP request has: for a TCP connection there is
// nothing, as in Envoy.
func addHTTP(all map[string]spec) {
	for _, name := range []string{
		"PROTOCOL", "UPSTREAM_PROTOCOL", "GRPC_STATUS_NUMBER", "VIRTUAL_CLUSTER_NAME", "TRACE_ID", "SPAN_ID",
		"REQUEST_DURATION", "REQUEST_TX_DURATION", "RESPONSE_DURATION", "RESPONSE_TX_DURATION",
		"ROUNDTRIP_DURATION", "TLS_JA3_FINGERPRINT", "TLS_JA4_FINGERPRINT",
	} {
		all[name] = plain(none())
	}
	for _, name := range []string{"REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "STREAM_INFO_REQ"} {
		all[name] = spec{argument: needsArgument, length: true, make: header}
	}
	all["RESPONSE_CODE_DETAILS"] = nothing(mayHaveArgument)
	all["QUERY_PARAM"] = spec{argument: needsArgument, length: true, make: oneOf()}
	all["GRPC_STATUS"] = spec{argument: mayHaveArgument, make: oneOf("", "CAMEL_STRING", "SNAKE_STRING", "NUMBER")}
	all["QUERY_PARAMS"] = spec{argument: mayHaveArgument, length: true, make: oneOf("", "ORIG", "DECODED")}
	all["PATH"] = spec{argument: mayHaveArgument, length: true, make: path}
}

func nothing(rule argumentRule) spec {
	return spec{argument: rule, make: oneOf()}
}

// oneOf takes one of the arguments, or any if there are none.
func oneOf(arguments ...string) func(string) (operator, error) {
	return func(argument string) (operator, error) {
		if len(arguments) > 0 && !slices.Contains(arguments, argument) {
			return operator{}, fmt.Errorf("%q is none of %s", argument, strings.Join(arguments[1:], ", "))
		}
		return none(), nil
	}
}

// path takes WQ or NQ, and after a colon the header.
func path(argument string) (operator, error) {
	query, from, _ := strings.Cut(argument, ":")
	if _, err := oneOf("", "WQ", "NQ")(query); err != nil {
		return operator{}, err
	}
	return oneOf("", "ORIG", "PATH", "ORIG_OR_PATH")(from)
}

// header takes the name of a header, and after a question mark of another.
func header(argument string) (operator, error) {
	names := strings.Split(argument, "?")
	if len(names) > 2 {
		return operator{}, fmt.Errorf("%q has more than one alternative", argument)
	}
	for _, name := range names {
		if i := strings.IndexFunc(strings.TrimPrefix(name, ":"), notToken); i >= 0 {
			return operator{}, fmt.Errorf("%q is not the name of a header", name)
		}
	}
	return none(), nil
}

// notToken is of RFC 9110, section 5.6.2.
func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}
