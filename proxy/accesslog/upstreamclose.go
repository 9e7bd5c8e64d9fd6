package accesslog

import (
	"strconv"
	"time"

	"outrider/proxy/http/codec"
)

// addUpstreamClose has %OUTRIDER_UPSTREAM_CLOSE%, which Envoy does not have:
// how the upstream connection of the last failed attempt ended, and what it had
// done until then. Its argument is one of the values; without, all are printed:
//
//	closed_by=fin requests=12 age=30.100s idle=5.000s read=1234 written=99 goaway=false
//
// docs/why-503.md says what to make of it.
func addUpstreamClose(all map[string]spec) {
	all["OUTRIDER_UPSTREAM_CLOSE"] = spec{argument: mayHaveArgument, length: true, make: func(argument string) (operator, error) {
		if argument == "" {
			return operator{text: ofEnd(appendEnd), json: ofEnd(appendEndJSON)}, nil
		}
		var names []string
		for _, v := range closeValues() {
			if v.name == argument {
				return v.operator(), nil
			}
			names = append(names, v.name)
		}
		return operator{}, oneOf(argument, append([]string{""}, names...)...)
	}}
}

// closeValue is one of the values. Its key is in text, its keyJSON in JSON,
// where durations are in milliseconds.
type closeValue struct {
	name, key, keyJSON string
	text, json         func(b []byte, end *codec.End) []byte
}

func (v closeValue) operator() operator {
	if v.json == nil {
		return operator{text: ofEnd(v.text)}
	}
	return operator{text: ofEnd(v.text), json: ofEnd(v.json)}
}

func ofEnd(print func([]byte, *codec.End) []byte) func([]byte, *entry) ([]byte, bool) {
	return func(b []byte, e *entry) ([]byte, bool) {
		if e.info.HTTP == nil || e.info.HTTP.UpstreamFailure == nil {
			return b, false
		}
		start := len(b)
		b = print(b, e.info.HTTP.UpstreamFailure)
		return b, len(b) > start
	}
}

func closeValues() []closeValue {
	count := func(name, key string, get func(*codec.End) uint64) closeValue {
		print := func(b []byte, end *codec.End) []byte { return strconv.AppendUint(b, get(end), 10) }
		return closeValue{name, key, key, print, print}
	}
	span := func(name, key string, get func(*codec.End) time.Duration) closeValue {
		return closeValue{name, key, key + "_ms",
			func(b []byte, end *codec.End) []byte {
				return append(strconv.AppendFloat(b, get(end).Seconds(), 'f', 3, 64), 's')
			},
			func(b []byte, end *codec.End) []byte { return strconv.AppendInt(b, get(end).Milliseconds(), 10) }}
	}
	goAway := func(b []byte, end *codec.End) []byte { return strconv.AppendBool(b, end.GoAway) }
	return []closeValue{
		{"BY", "closed_by", "closed_by", func(b []byte, end *codec.End) []byte { return append(b, end.By.String()...) }, nil},
		count("REQUESTS", "requests", func(end *codec.End) uint64 { return end.Requests }),
		span("AGE", "age", func(end *codec.End) time.Duration { return max(end.At.Sub(end.Opened), 0) }),
		span("IDLE", "idle", idle),
		count("READ", "read", func(end *codec.End) uint64 { return end.BytesRead }),
		count("WRITTEN", "written", func(end *codec.End) uint64 { return end.BytesWritten }),
		{"GOAWAY", "goaway", "goaway", goAway, goAway},
		{"ERROR", "", "error", appendError, nil},
	}
}

// idle is for how long nothing had come.
func idle(end *codec.End) time.Duration {
	since := end.LastRead
	if since.IsZero() {
		since = end.Opened
	}
	return max(end.At.Sub(since), 0)
}

func appendError(b []byte, end *codec.End) []byte {
	if end.Err == nil {
		return b
	}
	return append(b, end.Err.Error()...)
}

// appendEnd has all but the error, which has spaces in it.
func appendEnd(b []byte, end *codec.End) []byte {
	for i, v := range closeValues() {
		if v.key == "" {
			continue
		}
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, v.key...), '=')
		b = v.text(b, end)
	}
	return b
}

func appendEndJSON(b []byte, end *codec.End) []byte {
	b = append(b, '{')
	for _, v := range closeValues() {
		text := v.json
		if text == nil {
			text = func(b []byte, end *codec.End) []byte { return appendQuoted(b, string(v.text(nil, end))) }
			if end.Err == nil && v.name == "ERROR" {
				continue
			}
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, v.keyJSON), ':')
		b = text(b, end)
	}
	return append(b, '}')
}
