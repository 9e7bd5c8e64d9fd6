package accesslog

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// defaultFormat is Envoy's. A TCP connection has "-" for what is HTTP's.
const defaultFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

// Log is one access log. It may be used by many goroutines.
type Log struct {
	sink   *file
	filter *config.AccessLogFilter
	text   format
	json   []field
	isJSON bool
	omit   bool
}

// New makes an access log whose file is shared with the others of files.
func New(cfg *config.AccessLog, files *Files) (*Log, error) {
	l, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	l.sink, err = files.open(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return l, nil
}

// Check reports what is wrong with a log's format, without opening its file.
func Check(cfg *config.AccessLog) error {
	_, err := compile(cfg)
	return err
}

func compile(cfg *config.AccessLog) (*Log, error) {
	l := &Log{filter: cfg.Filter, omit: cfg.OmitEmpty}
	var err error
	if cfg.JSON != nil {
		l.isJSON = true
		l.json, err = parseJSON(cfg.JSON)
		return l, err
	}
	text := cfg.Format
	if text == "" {
		text = defaultFormat
	}
	l.text, err = parse(text)
	return l, err
}

// Write writes one entry, if the filter lets it through. event is
// %ACCESS_LOG_TYPE%. It does not block on the file.
func (l *Log) Write(info *flow.Info, event string) {
	if !passes(l.filter, info, event) {
		return
	}
	var b []byte
	if l.isJSON {
		b = append(appendObject(nil, l.json, info, event, l.omit), '\n')
	} else {
		b = l.text.text(nil, info, event, l.omit)
	}
	l.sink.write(b)
}

// passes evaluates a filter; nil lets everything through.
func passes(f *config.AccessLogFilter, info *flow.Info, event string) bool {
	one := func(f *config.AccessLogFilter) bool { return passes(f, info, event) }
	switch {
	case f == nil, f.NotHealth:
		return true
	case f.And != nil:
		return !slices.ContainsFunc(f.And, func(f *config.AccessLogFilter) bool { return !one(f) })
	case f.Or != nil:
		return slices.ContainsFunc(f.Or, one)
	case f.IsFlags:
		if len(f.Flags) == 0 {
			return info.Flags != 0
		}
		return info.Flags.HasAny(f.Flags)
	case f.DurationGE != nil:
		took := ended(info).Sub(info.Start).Truncate(time.Millisecond)
		return compare(f.Op, int64(took), int64(*f.DurationGE))
	case f.Status:
		return compare(f.Op, 0, int64(f.Value))
	case f.RuntimePPM != nil:
		return rand.Uint32N(1_000_000) < *f.RuntimePPM
	case f.LogTypes != nil || f.ExcludeTypes:
		return slices.Contains(f.LogTypes, event) != f.ExcludeTypes
	}
	return true
}

func compare(op string, have, want int64) bool {
	switch op {
	case "EQ":
		return have == want
	case "GE":
		return have >= want
	case "LE":
		return have <= want
	case "NE":
		return have != want
	}
	return false
}
