package flow

import "strconv"

// noGRPCStatus is what stands for a grpc-status that is none (Envoy:
// InvalidCode).
const noGRPCStatus = -1

// GRPCStatus is the status of a call of gRPC: of the trailers, else of the head,
// else what gRPC makes of the HTTP status. One that is no number is -1. It is
// false if nothing was answered.
func (h *HTTP) GRPCStatus() (int64, bool) {
	text, ok := h.ResponseTrailers.Get("grpc-status")
	if !ok && h.Response != nil {
		text, ok = h.Response.Fields.Get("grpc-status")
	}
	if ok {
		status, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return noGRPCStatus, true
		}
		return int64(status), true
	}
	if h.Status == 0 {
		return 0, false
	}
	return grpcOfHTTP(h.Status), true
}

// OwnGRPCStatus is GRPCStatus, where one that is not gRPC's own is -1 too.
func (h *HTTP) OwnGRPCStatus() (int64, bool) {
	const last = 16 // UNAUTHENTICATED
	status, ok := h.GRPCStatus()
	if status > last {
		status = noGRPCStatus
	}
	return status, ok
}

// grpcOfHTTP is the gRPC status of an HTTP status; source: gRPC,
// doc/http-grpc-status-mapping.md.
func grpcOfHTTP(status int) int64 {
	switch status {
	case 400:
		return 13 // Internal
	case 401:
		return 16 // Unauthenticated
	case 403:
		return 7 // PermissionDenied
	case 404:
		return 12 // Unimplemented
	case 429, 502, 503, 504:
		return 14 // Unavailable
	}
	return 2 // Unknown
}
