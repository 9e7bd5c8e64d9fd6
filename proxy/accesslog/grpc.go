package accesslog

import (
	"strconv"
	"strings"

	"outrider/proxy/flow"
)

// addGRPC has the gRPC status: of the trailers, else of the head, else what
// gRPC makes of the HTTP status.
func addGRPC(all map[string]spec) {
	print := func(b []byte, e *entry) ([]byte, bool) {
		status, ok := requestStatus(e.info.HTTP)
		if !ok {
			return b, false
		}
		return strconv.AppendInt(b, status, 10), true
	}
	asNumber := operator{text: print, json: print}
	all["GRPC_STATUS_NUMBER"] = plain(asNumber)
	all["GRPC_STATUS"] = spec{argument: mayHaveArgument, make: func(argument string) (operator, error) {
		if err := oneOf(argument, "", "CAMEL_STRING", "SNAKE_STRING", "NUMBER"); err != nil {
			return operator{}, err
		}
		if argument == "NUMBER" {
			return asNumber, nil
		}
		return operator{text: func(b []byte, e *entry) ([]byte, bool) {
			status, ok := requestStatus(e.info.HTTP)
			switch {
			case !ok:
				return b, false
			case status < 0 || status >= int64(len(grpcNames())):
				return strconv.AppendInt(b, status, 10), true
			case argument == "SNAKE_STRING":
				return append(b, snake(status)...), true
			}
			return append(b, grpcNames()[status]...), true
		}}, nil
	}}
}

// requestStatus is of gRPC requests; false if it is none, or has no status.
func requestStatus(h *flow.HTTP) (int64, bool) {
	if h == nil || h.Request == nil {
		return 0, false
	}
	if !isGRPC(h.Request.Value("content-type")) {
		return 0, false
	}
	return h.GRPCStatus()
}

// isGRPC is application/grpc, with +proto or the like, or parameters.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcNames are Envoy's names, by status.
func grpcNames() [17]string {
	return [17]string{
		"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
		"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
		"DataLoss", "Unauthenticated",
	}
}

// snake is the name with underscores: CANCELLED, DEADLINE_EXCEEDED.
func snake(status int64) string {
	name := grpcNames()[status]
	switch name {
	case "OK":
		return name
	case "Canceled":
		return "CANCELLED" // two Ls, as in Abseil
	}
	var out []byte
	for i := range len(name) {
		if c := name[i]; i > 0 && c >= 'A' && c <= 'Z' {
			out = append(out, '_')
		}
		out = append(out, name[i]&^0x20)
	}
	return string(out)
}
