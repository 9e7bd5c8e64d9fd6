package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrider/proxy/stats"
)

// handler answers the paths.
type handler struct {
	opts   Options
	routes []route
}

// route is one path with its line in /help.
type route struct {
	path, help string
	post       bool // changes something
	serve      http.HandlerFunc
}

// New makes the interface.
func New(o Options) http.Handler {
	a := &handler{opts: o}
	a.routes = []route{
		{"/certs", "print certs on machine", false, a.certs},
		{"/clusters", "upstream cluster status", false, a.clusters},
		{"/config_dump", "dump current configs", false, a.configDump},
		{"/drain_listeners", "drain listeners", true, a.drain},
		{"/healthcheck/fail", "cause the server to fail health checks", true, a.health(false)},
		{"/healthcheck/ok", "cause the server to pass health checks", true, a.health(true)},
		{"/help", "print out list of admin commands", false, a.help},
		{"/hot_restart_version", "print the hot restart compatibility version", false, plain("disabled")},
		{"/init_dump", "dump current secrets and listeners that wait", false, a.initDump},
		{"/listeners", "print listener info", false, a.listeners},
		{"/logging", "query/change logging levels", true, a.logging},
		{"/memory", "print current allocation/heap usage", false, a.memory},
		{"/quitquitquit", "exit the server", true, a.quit},
		{"/ready", "print server state, return 200 if LIVE, otherwise return 503", false, a.ready},
		{"/reopen_logs", "reopen access logs", true, a.reopen},
		{"/reset_counters", "reset all counters to zero", true, a.reset},
		{"/runtime", "print runtime values", false, a.runtime},
		{"/runtime_modify", "not supported: the runtime is static", true, a.runtimeModify},
		{"/server_info", "print server version/status information", false, a.serverInfo},
		{"/stats", "print server stats", false, a.stats},
		{"/stats/prometheus", "print server stats in prometheus format", false, a.prometheus},
		{"/debug/pprof/", "Go's profiles", false, profiles},
	}
	for _, h := range o.Handlers {
		a.routes = append(a.routes, route{h.Path, h.Help, false, h.Handler.ServeHTTP})
	}
	slices.SortFunc(a.routes, func(x, y route) int { return strings.Compare(x.path, y.path) })
	return a
}

// maxBody bounds what is read of a request; nothing that is needed is in it.
const maxBody = 64 << 10

func (a *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	w.Header().Set("Cache-Control", "no-cache, max-age=0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	if r.URL.Path == "/" {
		a.home(w)
		return
	}
	for _, one := range a.routes {
		if one.path != r.URL.Path && !(strings.HasSuffix(one.path, "/") && strings.HasPrefix(r.URL.Path, one.path)) {
			continue
		}
		if one.post && r.Method != http.MethodPost {
			http.Error(w, "Method "+r.Method+" not allowed, POST required.", http.StatusMethodNotAllowed)
			return
		}
		one.serve(w, r)
		return
	}
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, "invalid path. ")
	a.help(w, r)
}

func plain(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text+"\n") }
}

func profiles(w http.ResponseWriter, r *http.Request) {
	w.Header().Del("Content-Type")
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
}

func (a *handler) home(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	fmt.Fprint(w, "<!doctype html><title>outrider admin</title><table>")
	for _, one := range a.routes {
		if one.post {
			fmt.Fprintf(w, `<tr><td><form action="%s" method="post"><button>%s</button></form><td>%s`, one.path[1:], one.path, one.help)
		} else {
			fmt.Fprintf(w, `<tr><td><a href="%s">%s</a><td>%s`, one.path[1:], one.path, one.help)
		}
	}
	fmt.Fprint(w, "</table>\n")
}

func (a *handler) help(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "admin commands are:\n  /: Admin home page\n")
	for _, one := range a.routes {
		post := ""
		if one.post {
			post = " (POST)"
		}
		fmt.Fprintf(w, "  %s%s: %s\n", one.path, post, one.help)
	}
}

func (a *handler) ready(w http.ResponseWriter, _ *http.Request) {
	state := a.opts.State()
	if state != "LIVE" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, state)
}

func (a *handler) health(ok bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a.opts.Health(ok)
		fmt.Fprintln(w, "OK")
	}
}

func (a *handler) drain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	o := DrainOptions{Graceful: q.Has("graceful"), InboundOnly: q.Has("inboundonly"), SkipExit: q.Has("skip_exit")}
	if o.SkipExit && !o.Graceful {
		http.Error(w, "skip_exit requires graceful", http.StatusBadRequest)
		return
	}
	a.opts.Drain(o)
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
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "OK")
}

func (a *handler) reset(w http.ResponseWriter, _ *http.Request) {
	a.opts.Stats.Reset()
	fmt.Fprintln(w, "OK")
}

func (a *handler) stats(w http.ResponseWriter, r *http.Request) {
	q, err := statsQuery(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.opts.Refresh()
	switch format := r.URL.Query().Get("format"); format {
	case "", "text":
		err = a.opts.Stats.Text(w, q)
	case "json":
		w.Header().Set("Content-Type", "application/json")
		err = a.opts.Stats.JSON(w, q)
	case "prometheus":
		err = a.opts.Stats.Prometheus(w, q)
	default:
		http.Error(w, "usage: /stats?format=(json|text|prometheus)", http.StatusBadRequest)
	}
	_ = err // the client has gone: there is nobody to tell
}

func (a *handler) prometheus(w http.ResponseWriter, r *http.Request) {
	q, err := statsQuery(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.opts.Refresh()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=UTF-8")
	_ = a.opts.Stats.Prometheus(w, q) // as above
}

func statsQuery(r *http.Request) (stats.Query, error) {
	v := r.URL.Query()
	q := stats.Query{UsedOnly: v.Has("usedonly"), Type: v.Get("type")}
	if text := v.Get("filter"); text != "" {
		var err error
		if q.Filter, err = regexp.Compile(text); err != nil {
			return q, fmt.Errorf("Invalid re2 regex: %w", err) //nolint:staticcheck // Envoy's text
		}
	}
	switch q.Type {
	case "", "All", "Counters", "Gauges", "Histograms", "TextReadouts":
	default:
		return q, fmt.Errorf("invalid &type= param")
	}
	return q, nil
}

func (a *handler) logging(w http.ResponseWriter, r *http.Request) {
	if a.opts.LogLevel == nil {
		http.Error(w, "the log level cannot be changed", http.StatusBadRequest)
		return
	}
	q := r.URL.Query()
	if level := q.Get("level"); level != "" {
		l, ok := LogLevel(level)
		if !ok {
			http.Error(w, "error: unknown logger level "+level, http.StatusBadRequest)
			return
		}
		a.opts.LogLevel.Set(l)
	} else if len(q) > 0 {
		http.Error(w, "usage: /logging?level=<level>: there is one level for all", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "active loggers:\n  all: %s\n", levelName(a.opts.LogLevel.Level()))
}

func (a *handler) runtime(w http.ResponseWriter, _ *http.Request) {
	type entry struct {
		Values []string `json:"layer_values"`
		Final  string   `json:"final_value"`
	}
	out := struct {
		Layers  []string         `json:"layers"`
		Entries map[string]entry `json:"entries"`
	}{Layers: []string{}, Entries: map[string]entry{}}
	layers := a.opts.Bootstrap.Runtime
	for i, l := range layers {
		out.Layers = append(out.Layers, l.Name)
		for k, v := range l.Values {
			e := out.Entries[k]
			if e.Values == nil {
				e.Values = make([]string, len(layers))
			}
			e.Values[i], e.Final = v, v
			out.Entries[k] = e
		}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	_ = enc.Encode(out) // as above
}

func (a *handler) runtimeModify(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "the runtime is static: change layered_runtime in the bootstrap", http.StatusBadRequest)
}

func (a *handler) memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(&adminv3.Memory{
		Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased,
		PageheapFree: m.HeapIdle - m.HeapReleased, TotalPhysicalBytes: m.Sys - m.HeapReleased,
	}))
}

func (a *handler) serverInfo(w http.ResponseWriter, _ *http.Request) {
	up := durationpb.New(time.Since(a.opts.Start).Truncate(time.Second))
	node, _ := a.opts.Bootstrap.Node.Source.(*corev3.Node)
	out := &adminv3.ServerInfo{
		Version: a.opts.Version, State: adminv3.ServerInfo_State(adminv3.ServerInfo_State_value[a.opts.State()]),
		UptimeCurrentEpoch: up, UptimeAllEpochs: up, HotRestartVersion: "disabled",
		CommandLineOptions: commandLine(a.opts.CommandLine), Node: node,
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}

// initDump is what the server waits for.
func (a *handler) initDump(w http.ResponseWriter, _ *http.Request) {
	out := &adminv3.UnreadyTargetsDumps{}
	for _, h := range a.opts.Secrets() {
		if _, err := h.Current(); err != nil {
			out.UnreadyTargetsDumps = append(out.UnreadyTargetsDumps, &adminv3.UnreadyTargetsDumps_UnreadyTargetsDump{
				Name: "secret " + h.Ref().Name, TargetNames: []string{err.Error()},
			})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}
