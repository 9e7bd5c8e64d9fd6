package accesslog

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"outrider/proxy/flow"
)

func addTimes(all map[string]spec) {
	start := func(e *entry) time.Time { return e.info.Start }
	emit := func(e *entry) time.Time { return e.now }
	all["START_TIME"], all["START_TIME_LOCAL"] = moment(start, time.UTC), moment(start, time.Local)
	all["EMIT_TIME"], all["EMIT_TIME_LOCAL"] = moment(emit, time.UTC), moment(emit, time.Local)
	all["COMMON_DURATION"] = spec{argument: needsArgument, make: commonDuration}
	all["DURATION"] = milliseconds(start, (*entry).ended)
	for name, to := range map[string]func(*flow.HTTP) time.Time{
		"REQUEST_DURATION":    func(h *flow.HTTP) time.Time { return h.LastDownstreamRx },
		"REQUEST_TX_DURATION": func(h *flow.HTTP) time.Time { return h.LastUpstreamTx },
		"RESPONSE_DURATION":   firstUpstreamRx,
	} {
		all[name] = milliseconds(start, ofRequestTime(to))
	}
	all["RESPONSE_TX_DURATION"] = milliseconds(ofRequestTime(firstUpstreamRx),
		ofRequestTime(func(h *flow.HTTP) time.Time { return h.LastDownstreamTx }))
	all["DOWNSTREAM_HANDSHAKE_DURATION"] = milliseconds(start, func(e *entry) time.Time { return e.info.HandshakeDone })
	all["UPSTREAM_CONNECTION_POOL_READY_DURATION"] = milliseconds(dialed, poolReady)
}

func firstUpstreamRx(h *flow.HTTP) time.Time { return h.FirstUpstreamRx }

// ofRequestTime is f of requests; connections have no such time.
func ofRequestTime(f func(*flow.HTTP) time.Time) func(*entry) time.Time {
	return func(e *entry) time.Time {
		if e.info.HTTP == nil {
			return time.Time{}
		}
		return f(e.info.HTTP)
	}
}

// poolReady is when there was a connection to the upstream.
func poolReady(e *entry) time.Time {
	if e.info.HTTP != nil {
		return e.info.HTTP.PoolReady
	}
	return e.info.UpstreamConnected
}

// dialed is when the upstream connection was asked for.
func dialed(e *entry) time.Time {
	if e.info.HTTP != nil || e.info.UpstreamDial.IsZero() {
		return e.info.Start
	}
	return e.info.UpstreamDial
}

func milliseconds(from, to func(*entry) time.Time) spec {
	return plain(number(func(e *entry) (uint64, bool) { return between(from(e), to(e), time.Millisecond) }))
}

// between is whole units from a to b; false if one of them has not come, or b
// came first.
func between(a, b time.Time, unit time.Duration) (uint64, bool) {
	if a.IsZero() || b.IsZero() || b.Before(a) {
		return 0, false
	}
	return uint64(b.Sub(a) / unit), true
}

// commonDuration takes START:END or START:END:UNIT. Any point is allowed, as in
// Envoy; a TCP connection has four, a request all.
func commonDuration(argument string) (operator, error) {
	parts := strings.Split(argument, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return operator{}, errors.New("wants START:END or START:END:UNIT")
	}
	unit := time.Millisecond
	if len(parts) == 3 {
		var ok bool
		units := map[string]time.Duration{"ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}
		if unit, ok = units[parts[2]]; !ok {
			return operator{}, fmt.Errorf("%q is none of ms, us, ns", parts[2])
		}
	}
	from, to := point(parts[0]), point(parts[1])
	return number(func(e *entry) (uint64, bool) { return between(from(e.info), to(e.info), unit) }), nil
}

func point(name string) func(*flow.Info) time.Time {
	switch name {
	case "DS_RX_BEG":
		return func(i *flow.Info) time.Time { return i.Start }
	case "US_CX_BEG":
		return func(i *flow.Info) time.Time { return i.UpstreamDial }
	case "US_CX_END":
		return func(i *flow.Info) time.Time { return i.UpstreamDialed }
	case "US_HS_END":
		return func(i *flow.Info) time.Time {
			if i.Upstream == nil {
				return time.Time{}
			}
			return i.UpstreamConnected
		}
	}
	get := requestPoint(name)
	return func(i *flow.Info) time.Time {
		if i.HTTP == nil {
			return time.Time{}
		}
		return get(i.HTTP)
	}
}

// requestPoint is of the times that only requests have.
func requestPoint(name string) func(*flow.HTTP) time.Time {
	switch name {
	case "DS_RX_END":
		return func(h *flow.HTTP) time.Time { return h.LastDownstreamRx }
	case "US_TX_BEG":
		return func(h *flow.HTTP) time.Time { return h.FirstUpstreamTx }
	case "US_TX_END":
		return func(h *flow.HTTP) time.Time { return h.LastUpstreamTx }
	case "US_RX_BEG":
		return firstUpstreamRx
	case "US_RX_BODY_BEG":
		return func(h *flow.HTTP) time.Time { return h.FirstUpstreamBodyRx }
	case "US_RX_END":
		return func(h *flow.HTTP) time.Time { return h.LastUpstreamRx }
	case "DS_TX_BEG":
		return func(h *flow.HTTP) time.Time { return h.FirstDownstreamTx }
	case "DS_TX_END":
		return func(h *flow.HTTP) time.Time { return h.LastDownstreamTx }
	}
	return func(*flow.HTTP) time.Time { return time.Time{} }
}

// moment is an operator of a time, with a format or none.
func moment(get func(*entry) time.Time, in *time.Location) spec {
	return spec{argument: mayHaveArgument, make: func(layout string) (operator, error) {
		if hasNewline(layout) {
			return operator{}, fmt.Errorf("%q has a newline", layout)
		}
		return operator{text: func(b []byte, e *entry) ([]byte, bool) {
			t := get(e)
			if t.IsZero() {
				return b, false
			}
			return appendTime(b, t.In(in), layout, in == time.UTC), true
		}}, nil
	}}
}

// hasNewline finds the directive of a newline, with all that may be in it.
func hasNewline(layout string) bool {
	return regexp.MustCompile(`%[-_0^#]*[1-9]*(E|O)?n`).MatchString(layout)
}

// appendTime is strftime with Envoy's additions; "" is its default. What is no
// directive stays as it is.
func appendTime(b []byte, t time.Time, layout string, utc bool) []byte {
	if layout == "" && utc {
		return t.AppendFormat(b, "2006-01-02T15:04:05.000Z")
	}
	if layout == "" {
		return t.AppendFormat(b, "2006-01-02T15:04:05.000-0700")
	}
	for layout != "" {
		i := strings.IndexByte(layout, '%')
		if i < 0 {
			return append(b, layout...)
		}
		b = append(b, layout[:i]...)
		layout = layout[i:]
		var n int
		if b, n = appendDirective(b, t, layout); n == 0 {
			b = append(b, '%')
			n = 1
		}
		layout = layout[n:]
	}
	return b
}

// appendDirective prints the directive at the start of d, and returns how long
// that is; 0 if it is none.
func appendDirective(b []byte, t time.Time, d string) ([]byte, int) {
	if len(d) < 2 {
		return b, 0
	}
	switch c := d[1]; {
	case c >= '1' && c <= '9' && len(d) > 2 && d[2] == 'f':
		return appendFraction(b, t, int(c-'0')), 3
	case c >= '1' && c <= '9' && len(d) > 2 && d[2] == 's':
		return appendPadded(b, t.Unix(), 0, '0'), 3
	case c == 'E':
		return appendExtended(b, t, d)
	case strings.IndexByte("-_0^#", c) >= 0 && len(d) > 2:
		return appendFlagged(b, t, d)
	default:
		out, ok := appendLetter(b, t, c)
		if !ok {
			return b, 0
		}
		return out, 2
	}
}

// appendFlagged is GNU's %-d (no padding), %_d (spaces), %0e (zeros), %^a and
// %#Z (other case).
func appendFlagged(b []byte, t time.Time, d string) ([]byte, int) {
	start := len(b)
	b, ok := appendLetter(b, t, d[2])
	if !ok || d[2] == 'f' {
		return b[:start], 0
	}
	value := b[start:]
	switch d[1] {
	case '-':
		for len(value) > 1 && (value[0] == '0' || value[0] == ' ') {
			value = value[1:]
		}
		b = append(b[:start], value...)
	case '_':
		for i := 0; i < len(value)-1 && value[i] == '0'; i++ {
			value[i] = ' '
		}
	case '0':
		for i := 0; i < len(value)-1 && value[i] == ' '; i++ {
			value[i] = '0'
		}
	case '^':
		upper(value)
	case '#':
		if d[2] == 'Z' || d[2] == 'p' {
			lower(value)
		} else {
			upper(value)
		}
	}
	return b, 3
}

func upper(b []byte) {
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
}

func lower(b []byte) {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
}

// appendExtended is Abseil's %E4Y, %Ez, %E3S, %E*S, %E3f and %E*f.
func appendExtended(b []byte, t time.Time, d string) ([]byte, int) {
	if len(d) < 3 {
		return b, 0
	}
	if d[2] == 'z' {
		return t.AppendFormat(b, "-07:00"), 3
	}
	if len(d) < 4 {
		return b, 0
	}
	digits := -1 // as many as there are
	if d[2] >= '0' && d[2] <= '9' {
		digits = int(d[2] - '0')
	} else if d[2] != '*' {
		return b, 0
	}
	switch {
	case d[2:4] == "4Y":
		return appendPadded(b, int64(t.Year()), 4, '0'), 4
	case d[3] == 'z':
		return t.AppendFormat(b, "-07:00:00"), 4
	case d[3] == 'f':
		return appendFraction(b, t, digits), 4
	case d[3] == 'S':
		b = t.AppendFormat(b, "05")
		if digits == 0 || digits < 0 && t.Nanosecond() == 0 {
			return b, 4
		}
		return appendFraction(append(b, '.'), t, digits), 4
	}
	return b, 0
}

// appendFraction is that many digits of the second's fraction; all but trailing
// zeros if negative.
func appendFraction(b []byte, t time.Time, digits int) []byte {
	start := len(b)
	b = appendPadded(b, int64(t.Nanosecond()), 9, '0')
	if digits >= 0 {
		return b[:start+digits]
	}
	for len(b) > start+1 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}
