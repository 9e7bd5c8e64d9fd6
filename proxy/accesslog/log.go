package accesslog

import (
	"fmt"
	"sync"
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
	cel    expressions // of filter
	text   format
	json   object
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

// Check reports what is wrong with a log's format, without opening its file:
// operators that do not exist or that outrider cannot fill, and bad arguments.
func Check(cfg *config.AccessLog) error {
	_, err := compile(cfg)
	return err
}

func compile(cfg *config.AccessLog) (*Log, error) {
	l := &Log{filter: cfg.Filter, omit: cfg.OmitEmpty}
	err := checkFilter(cfg.Filter)
	if err == nil {
		err = l.cel.add(cfg.Filter)
	}
	if err != nil {
		return nil, err
	}
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

// Formatter compiles a text format to what it makes of a connection. What is
// not there is "-", or "" with omitEmpty. Nothing is escaped.
func Formatter(text string, omitEmpty bool) (func(*flow.Info) string, error) {
	f, err := parse(text)
	if err != nil {
		return nil, err
	}
	return func(info *flow.Info) string {
		return string(f.plain(nil, &entry{info: info, now: time.Now()}, omitEmpty))
	}, nil
}

// lines are buffers for one line each.
//
//nolint:gochecknoglobals // a pool has no state of its own
var lines = sync.Pool{New: func() any { return new(line) }}

type line struct {
	buf   []byte
	entry entry
}

// maxPooledLine keeps one very long line from being held for ever.
const maxPooledLine = 64 << 10

// Write writes one entry, if the filter lets it through. event is
// %ACCESS_LOG_TYPE%. It does not block on the file.
func (l *Log) Write(info *flow.Info, event string) {
	ln := lines.Get().(*line)
	ln.entry = entry{info: info, event: event, now: time.Now(), cel: l.cel}
	if passes(l.filter, &ln.entry) {
		ln.buf = l.append(ln.buf[:0], &ln.entry)
		l.sink.write(ln.buf)
	}
	ln.entry = entry{}
	if cap(ln.buf) <= maxPooledLine {
		lines.Put(ln)
	}
}

func (l *Log) append(b []byte, e *entry) []byte {
	if !l.isJSON {
		return l.text.text(b, e, l.omit)
	}
	start := len(b)
	b, ok := l.json.append(b, e, l.omit)
	if !ok { // everything is omitted
		b = append(b[:start], "{}"...)
	}
	return append(b, '\n')
}
