package accesslog

import (
	"strings"

	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// addCounts has the numbers that are no times.
func addCounts(all map[string]spec) {
	count := func(f func(*flow.Info) uint64) spec {
		return plain(number(func(e *entry) (uint64, bool) { return f(e.info), true }))
	}
	all["BYTES_RECEIVED"] = count(func(i *flow.Info) uint64 { return i.Received.Load() })
	all["BYTES_SENT"] = count(func(i *flow.Info) uint64 { return i.Sent.Load() })
	all["CONNECTION_ID"] = count(func(i *flow.Info) uint64 { return i.ID })
	// Of a connection these are counts of the connection, of a request its own.
	for name, c := range map[string]struct {
		connection func(*flow.Info) uint64
		request    func(*flow.HTTP) uint64
	}{
		"UPSTREAM_REQUEST_ATTEMPT_COUNT": {func(i *flow.Info) uint64 { return uint64(max(i.UpstreamAttempts, 0)) }, func(h *flow.HTTP) uint64 { return uint64(max(h.Attempts, 0)) }},
		"RESPONSE_CODE":                  {zero, func(h *flow.HTTP) uint64 { return uint64(max(h.Status, 0)) }},
		"REQUEST_HEADERS_BYTES":          {zero, func(h *flow.HTTP) uint64 { return headBytes(h.Request) }},
		"RESPONSE_HEADERS_BYTES":         {zero, func(h *flow.HTTP) uint64 { return headBytes(h.Response) }},
		"RESPONSE_TRAILERS_BYTES":        {zero, func(h *flow.HTTP) uint64 { return uint64(h.ResponseTrailers.Size()) }},

		"BYTES_RETRANSMITTED":   {zero, zeroOf}, // of QUIC
		"PACKETS_RETRANSMITTED": {zero, zeroOf},
	} {
		all[name] = count(func(i *flow.Info) uint64 {
			if i.HTTP != nil {
				return c.request(i.HTTP)
			}
			return c.connection(i)
		})
	}
	addWire(all)
	all["UPSTREAM_CONNECTION_ID"] = plain(number(func(e *entry) (uint64, bool) {
		if e.info.HTTP == nil {
			return 0, false
		}
		return e.info.HTTP.UpstreamConnID, true
	}))
}

// addWire has the bytes on the wire. Of a request, nothing where there must have
// been some says that nobody has counted them.
func addWire(all map[string]spec) {
	for name, c := range map[string]struct {
		connection func(*flow.Info) uint64
		request    func(*flow.HTTP) uint64
	}{
		"DOWNSTREAM_WIRE_BYTES_RECEIVED": {func(i *flow.Info) uint64 { return i.Received.Load() }, func(h *flow.HTTP) uint64 { return h.DownstreamWireReceived }},
		"DOWNSTREAM_WIRE_BYTES_SENT":     {func(i *flow.Info) uint64 { return i.Sent.Load() }, func(h *flow.HTTP) uint64 { return h.DownstreamWireSent }},
		"UPSTREAM_WIRE_BYTES_RECEIVED":   {func(i *flow.Info) uint64 { return i.UpstreamReceived.Load() }, func(h *flow.HTTP) uint64 { return h.UpstreamWireReceived }},
		"UPSTREAM_WIRE_BYTES_SENT":       {func(i *flow.Info) uint64 { return i.UpstreamSent.Load() }, func(h *flow.HTTP) uint64 { return h.UpstreamWireSent }},

		"DOWNSTREAM_HEADER_BYTES_RECEIVED":              {zero, downstreamHeadReceived},
		"DOWNSTREAM_HEADER_BYTES_SENT":                  {zero, downstreamHeadSent},
		"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": {zero, downstreamHeadReceived},
		"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT":     {zero, downstreamHeadSent},
		"UPSTREAM_HEADER_BYTES_RECEIVED":                {zero, upstreamHeadReceived},
		"UPSTREAM_HEADER_BYTES_SENT":                    {zero, upstreamHeadSent},
		"UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED":   {zero, upstreamHeadReceived},
		"UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT":       {zero, upstreamHeadSent},
	} {
		upstream := strings.HasPrefix(name, "UPSTREAM_")
		all[name] = plain(number(func(e *entry) (uint64, bool) {
			h := e.info.HTTP
			if h == nil {
				return c.connection(e.info), true
			}
			n := c.request(h)
			return n, n > 0 || upstream && h.Upstream == 0
		}))
	}
}

func zero(*flow.Info) uint64 { return 0 }

func zeroOf(*flow.HTTP) uint64 { return 0 }

func downstreamHeadReceived(h *flow.HTTP) uint64 { return uint64(max(h.RequestHeadBytes, 0)) }
func downstreamHeadSent(h *flow.HTTP) uint64     { return uint64(max(h.ResponseHeadBytes, 0)) }
func upstreamHeadReceived(h *flow.HTTP) uint64   { return uint64(max(h.UpstreamHeadReceived, 0)) }
func upstreamHeadSent(h *flow.HTTP) uint64       { return uint64(max(h.UpstreamHeadSent, 0)) }

// headBytes is what the names and the values have, pseudo-headers too. Fields
// that Envoy joins count as one.
func headBytes(h *message.Head) uint64 {
	if h == nil {
		return 0
	}
	n := h.Fields.Size()
	for _, name := range [...]string{":method", ":scheme", ":authority", ":path", ":status"} {
		if v := h.Value(name); v != "" {
			n += len(name) + len(v)
		}
	}
	for i, f := range h.Fields {
		if h.Fields[:i].Has(f.Name) && message.Inline(f.Name) {
			n += len(",") - len(f.Name)
		}
	}
	return uint64(n)
}
