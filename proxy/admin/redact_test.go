package admin

import (
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/cncf/xds/go/xds/type/v3"

	"outrider/certs"
)

// key stands for every secret: no answer may hold it, in text or in base64.
const key = "THE-PRIVATE-KEY"

// keyBase64 is 18 bytes, so that the key's base64 is found in it.
var keyBase64 = base64.StdEncoding.EncodeToString([]byte(key + "xyz"))

// secretive has the key wherever Envoy's protos can hold one.
func secretive(t *testing.T) *bootstrapv3.Bootstrap {
	t.Helper()
	context := `{
	  "common_tls_context": {"tls_certificates": [
	    {"certificate_chain": {"inline_string": "PUBLIC"}, "private_key": {"inline_string": "KEY"}, "password": {"inline_string": "KEY"}},
	    {"certificate_chain": {"filename": "/public.pem"}, "private_key": {"filename": "KEY"}, "password": {"environment_variable": "KEY"}},
	    {"private_key": {"inline_bytes": "BASE64"}, "pkcs12": {"inline_bytes": "BASE64"}},
	    {"private_key_provider": {"provider_name": "p", "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "KEY"}}}
	  ]},
	  "session_ticket_keys": {"keys": [{"inline_bytes": "BASE64"}, {"inline_string": "KEY"}, {"filename": "KEY"}]}
	}`
	text := `{"static_resources": {
	  "secrets": [
	    {"name": "a", "tls_certificate": {"private_key": {"inline_string": "KEY"}}},
	    {"name": "b", "session_ticket_keys": {"keys": [{"inline_bytes": "BASE64"}]}},
	    {"name": "c", "generic_secret": {"secret": {"inline_string": "KEY"}}},
	    {"name": "d", "generic_secret": {"secrets": {"x": {"inline_string": "KEY"}}}}
	  ],
	  "listeners": [{"name": "l", "filter_chains": [
	    {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", ` + context[1:] + `}},
	    {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct",
	      "type_url": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "value": ` + context + `}}},
	    {"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
	      "type_url": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "value": ` + context + `}}},
	    {"transport_socket": {"name": "own", "typed_config": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct",
	      "type_url": "type.googleapis.com/nobody.knows.This", "value": {"private_key": "KEY"}}}}
	  ]}],
	  "clusters": [{"name": "c", "transport_socket_matches": [{"name": "m", "transport_socket": {"name": "tls", "typed_config": {
	    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
	    "common_tls_context": {"tls_certificates": [{"private_key": {"inline_string": "KEY"}}]}}}}]}]
	}}`
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal([]byte(strings.NewReplacer("KEY", key, "BASE64", keyBase64).Replace(text)), b); err != nil {
		t.Fatal(err)
	}
	// What cannot be read might be a key too.
	b.StaticResources.Clusters[0].TypedExtensionProtocolOptions = map[string]*anypb.Any{
		"x": {TypeUrl: "type.googleapis.com/nobody.knows.This", Value: []byte(key)},
	}
	return b
}

func TestNoAnswerHoldsAKey(t *testing.T) {
	b := secretive(t)
	before := proto.CloneOf(b)
	o := options(nil)
	o.Bootstrap.Source = b
	o.CommandLine = map[string]any{"config_yaml": key, "config_path": "x.yaml"}
	listener, cluster := b.StaticResources.Listeners[0], b.StaticResources.Clusters[0]
	o.Listeners = func() []Listener {
		v := &Version{Source: listener}
		return []Listener{{Name: "l", Active: v}, {Name: "d", Dynamic: true, Active: v, Warming: v, Draining: v, Refused: &Refused{Source: listener}}}
	}
	o.Clusters = func() []Cluster {
		return []Cluster{{Name: "c", Source: cluster}, {Name: "d", Dynamic: true, Source: cluster, Refused: &Refused{Source: cluster}}}
	}
	o.Secrets = func() []*certs.Handle {
		var out []*certs.Handle
		for _, s := range b.StaticResources.Secrets {
			static := certs.NewHandle(certs.Ref{Name: s.GetName()})
			dynamic := certs.NewHandle(certs.Ref{Name: s.GetName(), Source: &certs.Source{Cluster: "sds"}})
			for _, h := range []*certs.Handle{static, dynamic} {
				h.Publish(&certs.Secret{Name: s.GetName(), Version: "v1 digest", Source: s})
				out = append(out, h)
			}
		}
		return out
	}
	targets := []string{
		"/config_dump", "/config_dump?include_eds", "/config_dump?mask=bootstrap", "/config_dump?mask=bootstrap.static_resources",
		"/config_dump?name_regex=l", "/config_dump?resource=static_secrets", "/config_dump?resource=static_secrets&mask=secret.tls_certificate.private_key",
		"/config_dump?resource=dynamic_listeners&mask=active_state.listener.filter_chains", "/config_dump?resource=dynamic_active_secrets",
		"/server_info", "/clusters", "/clusters?format=json", "/certs", "/init_dump", "/debug/pprof/cmdline",
	}
	for _, target := range targets {
		got := ask(t, o, "GET", target).Body.String()
		// Without the first and last letters, the base64 of key is the same at
		// the beginning of anything.
		for _, leak := range []string{key, base64.StdEncoding.EncodeToString([]byte(key))[:18], url.QueryEscape(key)} {
			if strings.Contains(got, leak) {
				at := strings.Index(got, leak)
				t.Errorf("%s shows %s: %s", target, leak, got[max(0, at-200):at+20])
			}
		}
	}
	whole := ask(t, o, "GET", "/config_dump").Body.String()
	for _, want := range []string{`"inline_string": "PUBLIC"`, `"inline_string": "[redacted]"`, `"inline_bytes": "W3JlZGFjdGVkXQ=="`, `"filename": "/public.pem"`} {
		if !strings.Contains(whole, want) {
			t.Errorf("no %s in the dump", want)
		}
	}
	if !proto.Equal(b, before) {
		t.Error("the configuration itself was changed")
	}
}

// istioctl takes a TypedStruct's value for an object, and refuses the whole dump
// if it is anything else.
func TestATypedStructStaysAnObject(t *testing.T) {
	o := options(nil)
	o.Bootstrap.Source = secretive(t)
	var dump struct {
		Configs []struct {
			Bootstrap struct {
				Static struct {
					Listeners []struct {
						Chains []struct {
							Socket struct {
								Config struct {
									Value map[string]any `json:"value"`
								} `json:"typed_config"`
							} `json:"transport_socket"`
						} `json:"filter_chains"`
					} `json:"listeners"`
				} `json:"static_resources"`
			} `json:"bootstrap"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(ask(t, o, "GET", "/config_dump").Body.Bytes(), &dump); err != nil {
		t.Fatal(err)
	}
	chains := dump.Configs[0].Bootstrap.Static.Listeners[0].Chains
	if len(chains) != 4 {
		t.Fatalf("%d filter chains", len(chains))
	}
	if got := chains[3].Socket.Config.Value["private_key"]; got != redacted {
		t.Errorf("of a type that nobody knows: got %v", got)
	}
	if got := chains[2].Socket.Config.Value["common_tls_context"]; got == nil {
		t.Error("of a type that is known: it is not shown")
	}
}

func TestAMaskDoesNotTrimTheConfigurationItself(t *testing.T) {
	o := options(nil)
	source := &bootstrapv3.Bootstrap{}
	o.Bootstrap.Source = source
	source.StaticResources = secretive(t).GetStaticResources()
	before := proto.CloneOf(source)
	secret := &tlsv3.Secret{Name: "s"}
	o.Secrets = func() []*certs.Handle {
		h := certs.NewHandle(certs.Ref{Name: "s"})
		h.Publish(&certs.Secret{Name: "s", Source: secret})
		return []*certs.Handle{h}
	}
	for _, target := range []string{"/config_dump?mask=bootstrap.admin", "/config_dump?name_regex=nosuch", "/config_dump?resource=static_secrets&mask=name"} {
		if w := ask(t, o, "GET", target); w.Code != 200 {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if !proto.Equal(source, before) || secret.GetName() != "s" {
		t.Error("it was changed")
	}
}

// Whatever is asked, the answer is 200, 400 or 404, and JSON if it is 200.
func FuzzConfigDumpQuery(f *testing.F) {
	f.Add("bootstrap.node,static_clusters", "static_clusters", "s.*")
	f.Add("cluster.name", "static_clusters", "")
	f.Add("cluster.@type..", "dynamic_listeners", "(")
	f.Add("last_updated.seconds,cluster.load_assignment.endpoints", "", "")
	f.Fuzz(func(t *testing.T, mask, resource, names string) {
		q := url.Values{"mask": {mask}, "resource": {resource}, "name_regex": {names}, "include_eds": {""}}
		r := httptest.NewRequest("GET", "/config_dump?"+q.Encode(), nil)
		w := httptest.NewRecorder()
		New(options(nil)).ServeHTTP(w, r)
		switch w.Code {
		case 200:
			if !isJSON(w.Body.Bytes()) {
				t.Errorf("not JSON: %s", w.Body)
			}
		case 400, 404:
		default:
			t.Errorf("status %d", w.Code)
		}
	})
}

func TestTheCommandLineIsShownByEnvoysNames(t *testing.T) {
	o := options(nil)
	o.CommandLine = map[string]any{
		"concurrency": uint32(2), "config_path": "x.yaml", "log_level": "warn", "drain_time_s": uint32(5),
		"drain_strategy": "immediate", "file_flush_interval_msec": uint32(10000), "service_node": "n", "disable_hot_restart": true,
	}
	var info struct {
		Options map[string]any `json:"command_line_options"`
	}
	if err := json.Unmarshal(ask(t, o, "GET", "/server_info").Body.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"concurrency": 2.0, "config_path": "x.yaml", "log_level": "warning", "drain_time": "5s", "drain_strategy": "Immediate",
		"file_flush_interval": "10s", "service_node": "n", "disable_hot_restart": true, "mode": "Serve", "base_id": "0", "log_path": "",
	} {
		if got := info.Options[name]; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func isJSON(b []byte) bool { return json.Valid(b) }
