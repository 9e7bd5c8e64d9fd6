package admin

import (
	"strings"
	"testing"
)

// The statuses, types and texts are Envoy 1.40's, but for the wording of
// regular expressions' errors.
func TestTextsAreEnvoys(t *testing.T) {
	const plainText = "text/plain; charset=UTF-8"
	cases := []struct {
		method, target string
		status         int
		typ, body      string // a body that ends in ... is the beginning
	}{
		{"GET", "/ready", 200, plainText, "LIVE\n"},
		{"POST", "/ready", 200, plainText, "LIVE\n"},
		{"GET", "/nosuch", 404, plainText, "invalid path. admin commands are:\n  /: Admin home page\n..."},
		{"GET", "/help", 200, plainText, "admin commands are:\n  /: Admin home page\n..."},
		{"GET", "/", 200, "text/html; charset=UTF-8", "<!DOCTYPE html>..."},
		{"GET", "/hot_restart_version", 200, plainText, "disabled\n"},
		{"GET", "/listeners?format=json", 200, "application/json", "{}\n"},
		{"GET", "/init_dump", 200, "application/json", "{}\n"},
		{"GET", "/clusters?filter=nosuch", 200, plainText, ""},
		{"GET", "/clusters?filter=%5Est$&format=json", 200, "application/json", "{\n \"cluster_statuses\": [\n  {\n   \"name\": \"st\",\n..."},
		{"GET", "/config_dump?resource=bootstrap", 400, "text/plain", "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field"},
		{"GET", "/config_dump?resource=version_info", 400, "text/plain", "version_info is not a repeated field. Use ?mask=version_info to get only this field"},
		{"GET", "/config_dump?resource=nosuch", 404, "text/plain", "nosuch not found in config dump"},
		{"GET", "/config_dump?resource=static_endpoint_configs", 404, "text/plain", "static_endpoint_configs not found in config dump"},
		{"GET", "/config_dump?resource=dynamic_warming_clusters", 200, "application/json", "{}\n"},
		{"GET", "/config_dump?resource=static_clusters&mask=nosuch.name", 400, "text/plain", "FieldMask nosuch.name could not be successfully used."},
		{"GET", "/config_dump?resource=static_clusters&mask=cluster.nosuch", 400, "text/plain", "FieldMask cluster.nosuch could not be successfully used."},
		{"GET", "/config_dump?mask=nosuch", 400, "text/plain", "FieldMask nosuch could not be successfully applied to any configs."},
		{"GET", "/config_dump?mask=bootstrap.nosuch", 400, "text/plain", "FieldMask bootstrap.nosuch could not be successfully applied to any configs."},
		{"GET", "/config_dump?mask=dynamic_listeners.name", 400, "text/plain", "FieldMask dynamic_listeners.name could not be successfully applied to any configs."},
		{"GET", "/config_dump?mask=bootstrap.node,static_clusters", 400, "text/plain", "FieldMask bootstrap.node,static_clusters could not be successfully applied to any configs."},
		{"GET", "/config_dump?mask=bootstrap.node.id", 200, "application/json", `{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
   "bootstrap": {
    "node": {
     "id": "n1"
    }
   }
  }
 ]
}
`},
		{"GET", "/config_dump?resource=static_clusters&mask=cluster.name", 200, "application/json", `{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "st"
   }
  }
 ]
}
`},
		{"GET", "/config_dump?resource=static_clusters&name_regex=s", 200, "application/json", "{}\n"},
		{"GET", "/config_dump?resource=static_clusters&name_regex=s.&mask=last_updated.seconds", 200, "application/json", "{\n \"configs\": [\n..."},
		{"GET", "/config_dump?name_regex=(", 400, "text/plain", "INVALID_ARGUMENT: Error while parsing name_regex from (: ..."},
		{"GET", "/stats?filter=nosuch&format=json", 200, "application/json", `{"stats":[]}`},
		{"GET", "/stats?filter=(", 400, plainText, "Invalid re2 regex: ..."},
		{"GET", "/stats?type=xx", 400, plainText, "invalid &type= param"},
		{"GET", "/stats?format=xx", 400, plainText, "usage: /stats?format=(json|prometheus|text)\n\n"},
		{"GET", "/stats?histogram_buckets=xx", 400, plainText, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n"},
		{"GET", "/stats?format=prometheus&histogram_buckets=xx", 400, plainText, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n"},
		{"GET", "/stats/prometheus", 200, plainText, ""},
		{"GET", "/stats/prometheus?filter=(", 400, plainText, "Invalid re2 regex: ..."},
		{"GET", "/stats/prometheus?histogram_buckets=detailed", 400, plainText, "unsupported prometheus histogram bucket mode"},
		{"POST", "/logging", 200, plainText, "active loggers:\n  all: warning\n\n"},
		{"POST", "/logging?level=bogus", 400, plainText, "error: unknown logger level\n\nusage: /logging?level=<level> (change all levels)\nlevels: trace debug info warning error critical off \nactive loggers:\n  all: warning\n\n"},
		{"POST", "/logging?paths=upstream:debug", 400, plainText, "error: unknown logger name\n\n..."},
		{"POST", "/logging?paths=upstream:debug&level=info", 400, plainText, "error: invalid number of parameters\n\n..."},
		{"POST", "/logging?level=debug", 200, plainText, "active loggers:\n  all: debug\n\n"},
		{"POST", "/runtime_modify?a=b", 503, plainText, "the runtime cannot be changed while the server runs: change layered_runtime in the bootstrap"},
		{"POST", "/runtime_modify", 400, plainText, "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n"},
		{"GET", "/runtime", 200, "application/json", "{\n \"layers\": [\n  \"a\",\n  \"b\"\n ],\n \"entries\": {\n  \"x\": {\n   \"layer_values\": [\n    \"1\",\n    \"3\"\n   ],\n   \"final_value\": \"3\"\n  },\n..."},
	}
	for _, c := range cases {
		t.Run(c.method+" "+c.target, func(t *testing.T) {
			w := ask(t, options(nil), c.method, c.target)
			got := w.Body.String()
			if want, cut := strings.CutSuffix(c.body, "..."); cut {
				got, c.body = got[:min(len(got), len(want))], want
			}
			if w.Code != c.status || w.Header().Get("Content-Type") != c.typ || got != c.body {
				t.Errorf("got  %d %s %q\nwant %d %s %q", w.Code, w.Header().Get("Content-Type"), got, c.status, c.typ, c.body)
			}
			if w.Header().Get("Cache-Control") != "no-cache, max-age=0" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}
