package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (a *handler) ready(w http.ResponseWriter, _ *http.Request) {
	state := a.opts.State()
	if state != "LIVE" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, state)
}

func (a *handler) serverInfo(w http.ResponseWriter, _ *http.Request) {
	up := durationpb.New(time.Since(a.opts.Start).Truncate(time.Second))
	node := a.node()
	answerJSON(w, &adminv3.ServerInfo{
		Version: a.opts.Version, State: adminv3.ServerInfo_State(adminv3.ServerInfo_State_value[a.opts.State()]),
		UptimeCurrentEpoch: up, UptimeAllEpochs: up, HotRestartVersion: "disabled",
		CommandLineOptions: commandLine(a.opts.CommandLine), Node: node,
	}, true)
}

// commandLine makes the message of the options that are known to it.
func commandLine(options map[string]any) *adminv3.CommandLineOptions {
	text := func(name string) string { s, _ := options[name].(string); return s }
	is := func(name string) bool { b, _ := options[name].(bool); return b }
	times := func(name string, unit time.Duration) *durationpb.Duration {
		n, ok := options[name].(uint32)
		if !ok {
			return nil
		}
		return durationpb.New(time.Duration(n) * unit)
	}
	out := &adminv3.CommandLineOptions{
		ConfigPath: text("config_path"), AdminAddressPath: text("admin_address_path"),
		AllowUnknownStaticFields:   is("allow_unknown_static_fields"),
		RejectUnknownDynamicFields: is("reject_unknown_dynamic_fields"), IgnoreUnknownDynamicFields: is("ignore_unknown_dynamic_fields"),
		LogLevel: logLevelText(text("log_level")), ComponentLogLevel: text("component_log_level"), LogFormat: text("log_format"), LogPath: text("log_path"),
		ServiceCluster: text("service_cluster"), ServiceNode: text("service_node"), ServiceZone: text("service_zone"),
		DrainTime: times("drain_time_s", time.Second), ParentShutdownTime: times("parent_shutdown_time_s", time.Second),
		FileFlushInterval: times("file_flush_interval_msec", time.Millisecond), DisableHotRestart: is("disable_hot_restart"),
	}
	out.Concurrency, _ = options["concurrency"].(uint32)
	if text("config_yaml") != "" {
		out.ConfigYaml = redacted // it may hold keys
	}
	if text("drain_strategy") == "immediate" {
		out.DrainStrategy = adminv3.CommandLineOptions_Immediate
	}
	return out
}

// logLevelText is Envoy's one name of a level that has two.
func logLevelText(name string) string {
	if level, ok := LogLevel(name); ok {
		return levelName(level)
	}
	return name
}

func (a *handler) memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	answerJSON(w, &adminv3.Memory{
		Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased,
		PageheapFree: m.HeapIdle - m.HeapReleased, TotalPhysicalBytes: m.Sys - m.HeapReleased,
	}, true)
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
	answerJSON(w, out, false)
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
	_ = enc.Encode(out) // the client has gone: there is nobody to tell
}
