package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
)

func (a *handler) health(ok bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a.opts.Health(ok)
		fmt.Fprintln(w, "OK")
	}
}

func (a *handler) drain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a.opts.Drain(DrainOptions{Graceful: q.Has("graceful"), InboundOnly: q.Has("inboundonly"), SkipExit: q.Has("skip_exit")})
	fmt.Fprintln(w, "OK")
}

func (a *handler) quit(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "OK")
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	a.opts.Quit()
}

func (a *handler) reopen(w http.ResponseWriter, _ *http.Request) {
	if err := a.opts.ReopenLogs(); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	fmt.Fprintln(w, "OK")
}

func (a *handler) reset(w http.ResponseWriter, _ *http.Request) {
	a.opts.Stats.Reset()
	fmt.Fprintln(w, "OK")
}

// levels are Envoy's log levels as slog's.
var levels = []struct { //nolint:gochecknoglobals // a table
	name  string
	level slog.Level
}{
	{"trace", slog.LevelDebug - 4}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo},
	{"warning", slog.LevelWarn}, {"warn", slog.LevelWarn}, {"error", slog.LevelError},
	{"critical", slog.LevelError + 4}, {"off", slog.LevelError + 100},
}

// LogLevel is one of Envoy's log levels.
func LogLevel(name string) (slog.Level, bool) {
	for _, l := range levels {
		if l.name == name {
			return l.level, true
		}
	}
	return 0, false
}

func levelName(level slog.Level) string {
	for _, l := range levels {
		if l.level == level {
			return l.name
		}
	}
	return level.String()
}

// levelNames are those that Envoy lists, each with a space behind it.
func levelNames() string {
	var out strings.Builder
	for _, l := range levels {
		if l.name != "warn" {
			out.WriteString(l.name + " ")
		}
	}
	return out.String()
}

// logging shows and sets the one level that there is: Envoy's levels by
// component are refused.
func (a *handler) logging(w http.ResponseWriter, r *http.Request) {
	if a.opts.LogLevel == nil {
		refuse(w, http.StatusBadRequest, "the log level cannot be changed")
		return
	}
	q := r.URL.Query()
	level, known := LogLevel(q.Get("level"))
	problem := ""
	switch {
	case len(q) == 0:
	case len(q) > 1:
		problem = "invalid number of parameters"
	case !q.Has("level"):
		problem = "unknown logger name"
	case !known:
		problem = "unknown logger level"
	default:
		a.opts.LogLevel.Set(level)
	}
	if problem != "" {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "error: %s\n\nusage: /logging?level=<level> (change all levels)\nlevels: %s\n", problem, levelNames())
	}
	fmt.Fprintf(w, "active loggers:\n  all: %s\n\n", levelName(a.opts.LogLevel.Level()))
}

// runtimeModify changes nothing: an admin layer stays empty.
func (a *handler) runtimeModify(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if len(r.Form) == 0 {
		refuse(w, http.StatusBadRequest, "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n")
		return
	}
	refuse(w, http.StatusServiceUnavailable, "the runtime cannot be changed while the server runs: change layered_runtime in the bootstrap")
}
