package admin

import (
	"fmt"
	"html"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
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
	params     []param
}

// param is a query parameter with its line in /help.
type param struct{ name, help string }

// New makes the interface.
func New(o Options) http.Handler {
	a := &handler{opts: o}
	a.routes = append(a.shows(), a.acts()...)
	for _, h := range o.Handlers {
		a.routes = append(a.routes, route{path: h.Path, help: h.Help, serve: h.Handler.ServeHTTP})
	}
	slices.SortFunc(a.routes, func(x, y route) int { return strings.Compare(x.path, y.path) })
	return a
}

// shows are the paths that change nothing.
func (a *handler) shows() []route {
	filter := []param{
		{"usedonly", "only what was written since the start"},
		{"filter", "a regular expression (RE2) that is searched in the names"},
		{"invert_filter", "take those that the filter does not find"},
	}
	return []route{
		{path: "/certs", help: "certificates and roots in use", serve: a.certs},
		{path: "/certs/status", help: "how good each secret is, when it is renewed and what went wrong", serve: CertsStatusHandler(a.allSecrets).ServeHTTP,
			params: []param{{"format", "json or text"}}},
		{path: "/clusters", help: "clusters and their hosts", serve: a.clusters, params: []param{
			{"filter", "a regular expression (RE2) that is searched in the names"}, {"format", "text or json"},
		}},
		{path: "/config_dump", help: "the configuration in use, private keys redacted", serve: a.configDump, params: []param{
			{"resource", "only this repeated field, as static_clusters"},
			{"mask", "only these fields, with commas; together with resource, of each of its elements"},
			{"name_regex", "only resources whose whole name matches"},
			{"include_eds", "endpoints too"},
		}},
		{path: "/debug/pprof/", help: "profiles of the Go runtime", serve: profiles},
		{path: "/help", help: "this list", serve: a.help},
		{path: "/hot_restart_version", help: "the version of the hot restart protocol", serve: plain("disabled")},
		{path: "/init_dump", help: "what the server waits for", serve: a.initDump},
		{path: "/listeners", help: "listeners and their addresses", serve: a.listeners, params: []param{{"format", "text or json"}}},
		{path: "/memory", help: "memory in use", serve: a.memory},
		{path: "/ready", help: "the state of the server; 200 if it is LIVE, else 503", serve: a.ready},
		{path: "/runtime", help: "runtime values by layer", serve: a.runtime},
		{path: "/server_info", help: "version, state, command line and node", serve: a.serverInfo},
		{path: "/stats", help: "metrics", serve: a.stats, params: append(slices.Clone(filter),
			param{"format", "text, json or prometheus"}, param{"type", "All, Counters, Gauges, Histograms or TextReadouts"},
			param{"histogram_buckets", "summary, cumulative, disjoint or detailed"})},
		{path: "/stats/prometheus", help: "metrics in Prometheus' format", serve: a.prometheus, params: append(slices.Clone(filter),
			param{"text_readouts", "texts too, as gauges of value 0"}, param{"histogram_buckets", "cumulative or summary"})},
	}
}

// acts are the paths that change something.
func (a *handler) acts() []route {
	return []route{
		{path: "/drain_listeners", help: "stop listeners", post: true, serve: a.drain, params: []param{
			{"graceful", "after the drain time"}, {"inboundonly", "only those with traffic_direction INBOUND"},
			{"skip_exit", "drain the connections, but stop no listener"},
		}},
		{path: "/healthcheck/fail", help: "not ready any more", post: true, serve: a.health(false)},
		{path: "/healthcheck/ok", help: "ready again", post: true, serve: a.health(true)},
		{path: "/logging", help: "show or set the log level", post: true, serve: a.logging, params: []param{{"level", strings.TrimSpace(levelNames())}}},
		{path: "/quitquitquit", help: "end the server", post: true, serve: a.quit},
		{path: "/reopen_logs", help: "open the access logs anew", post: true, serve: a.reopen},
		{path: "/reset_counters", help: "set all counters to 0", post: true, serve: a.reset},
		{path: "/runtime_modify", help: "refused: the runtime does not change", post: true, serve: a.runtimeModify},
	}
}

// maxBody bounds what is read of a request: only /runtime_modify has a body.
const maxBody = 64 << 10

func (a *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	w.Header().Set("Cache-Control", "no-cache, max-age=0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", textType)
	if r.URL.Path == "/" {
		a.home(w)
		return
	}
	one, ok := a.route(r.URL.Path)
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "invalid path. ")
		a.help(w, r)
	case one.post && r.Method != http.MethodPost:
		refuse(w, http.StatusMethodNotAllowed, "Method "+r.Method+" not allowed, POST required.")
	default:
		one.serve(w, r)
	}
}

func (a *handler) route(path string) (route, bool) {
	for _, one := range a.routes {
		if one.path == path || strings.HasSuffix(one.path, "/") && strings.HasPrefix(path, one.path) {
			return one, true
		}
	}
	return route{}, false
}

const textType = "text/plain; charset=UTF-8"

// refuse answers with an error; Envoy's texts have no line end.
func refuse(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	fmt.Fprint(w, text)
}

// answerJSON writes m, as encode does. all shows unset fields too.
func answerJSON(w http.ResponseWriter, m proto.Message, all bool) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encode(m, all, nil)) // the client has gone: there is nobody to tell
}

func plain(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) }
}

func profiles(w http.ResponseWriter, r *http.Request) {
	w.Header().Del("Content-Type")
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		refuse(w, http.StatusNotFound, "not here: see /server_info") // --config-yaml may hold keys
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
	fmt.Fprint(w, "<!DOCTYPE html>\n<html lang=\"en\"><head><title>outrider admin</title></head><body><table>\n")
	for _, one := range a.routes {
		path, help := html.EscapeString(one.path), html.EscapeString(one.help)
		if one.post {
			fmt.Fprintf(w, "<tr><td><form action=\"%s\" method=\"post\"><button>%s</button></form></td><td>%s</td></tr>\n", path[1:], path, help)
		} else {
			fmt.Fprintf(w, "<tr><td><a href=\"%s\">%s</a></td><td>%s</td></tr>\n", path[1:], path, help)
		}
	}
	fmt.Fprint(w, "</table></body></html>\n")
}

func (a *handler) help(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "admin commands are:\n  /: Admin home page\n")
	for _, one := range a.routes {
		post := ""
		if one.post {
			post = " (POST)"
		}
		fmt.Fprintf(w, "  %s%s: %s\n", one.path, post, one.help)
		for _, p := range one.params {
			fmt.Fprintf(w, "      %s: %s\n", p.name, p.help)
		}
	}
}

// node is the node that requests to control planes have.
func (a *handler) node() *corev3.Node {
	if a.opts.Node != nil {
		return a.opts.Node
	}
	node, _ := a.opts.Bootstrap.Node.Source.(*corev3.Node)
	return node
}
