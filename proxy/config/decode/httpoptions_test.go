package decode

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"outrider/proxy/config"
)

func changed(t *testing.T, old, with string) []byte {
	t.Helper()
	return []byte(mistake{old: old, new: with}.textOf(t, httpBase))
}

func TestFormatsAreCheckedWhereTheyStand(t *testing.T) {
	opts := Options{CheckFormat: func(f *config.AccessLog) error {
		if strings.Contains(f.Format, "%NO%") {
			return errors.New("there is no NO")
		}
		return nil
	}}
	for place, text := range map[string][]byte{
		route0 + ".request_headers_to_add[0].header.value":                                            changed(t, toUp, toUp+"\n                request_headers_to_add: [{header: {key: x, value: '%NO%'}}]"),
		route0 + ".route.host_rewrite":                                                                changed(t, toUp, inAction("host_rewrite: '%NO%'")),
		route0 + ".route.path_rewrite":                                                                changed(t, toUp, inAction("path_rewrite: '/%NO%'")),
		route0 + ".direct_response.body_format":                                                       changed(t, toUp, "direct_response: {status: 200, body_format: {text_format: '%NO%'}}"),
		hcm0 + ".local_reply_config.body_format":                                                      changed(t, inHCM, inHCM+"\n          local_reply_config: {body_format: {text_format: '%NO%'}}"),
		filter0 + ".mutations.response_mutations[0].append.header.value":                              changed(t, inFilters, withFilter("header_mutation.v3.HeaderMutation", "mutations: {response_mutations: [{append: {header: {key: x, value: '%NO%'}}}]}")),
		filter0 + ".on_request_headers[0].format_string":                                              changed(t, inFilters, withFilter("set_filter_state.v3.Config", "on_request_headers: [{object_key: k, format_string: {text_format_source: {inline_string: '%NO%'}}}]")),
		route0 + ".route.request_mirror_policies[0].request_headers_mutations[0].append.header.value": changed(t, toUp, inAction("request_mirror_policies: [{cluster: up, request_headers_mutations: [{append: {header: {key: x, value: '%NO%'}}}]}]")),
	} {
		_, err := Bootstrap(text, opts)
		if want := place + ": there is no NO"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, err := Bootstrap([]byte(strings.ReplaceAll(string(text), "%NO%", "yes")), opts); err != nil {
			t.Errorf("%s, with a good format: %v", place, err)
		}
	}
}

// A filter of somebody else's: Lua's message stands for it.
const luaType protoreflect.FullName = "envoy.extensions.filters.http.lua.v3.Lua"

type ownFilter struct{ code string }

func decodeOwn(m proto.Message) (any, error) {
	code := m.(*luav3.Lua).GetInlineCode()
	if code == "bad" {
		return nil, fmt.Errorf("inline_code %q does not run", code)
	}
	return ownFilter{code}, nil
}

func TestAFilterOfOthersIsDecodedByItsOwnDecoder(t *testing.T) {
	opts := Options{HTTPFilters: map[protoreflect.FullName]HTTPFilterDecoder{luaType: decodeOwn}}
	text := string(changed(t, inFilters, withFilter("lua.v3.Lua", "inline_code: filter")))
	text = strings.Replace(text, prefixOnly, routeFilter("lua.v3.Lua", "inline_code: route"), 1)
	b, err := Bootstrap([]byte(text), opts)
	if err != nil {
		t.Fatal(err)
	}
	m := b.Listeners[0].Chains[0].Filters[0].HTTP
	if got := m.Filters[0].Config; got != (ownFilter{"filter"}) {
		t.Errorf("filter: got %v", got)
	}
	if got := m.Routes.VirtualHosts[0].Routes[0].PerFilter["f"].Config; got != (ownFilter{"route"}) {
		t.Errorf("route: got %v", got)
	}
	for what, wrong := range map[string][2]string{
		filter0 + `: inline_code "bad" does not run`:   {"inline_code: filter", "inline_code: bad"},
		override0 + `: inline_code "bad" does not run`: {"inline_code: route", "inline_code: bad"},
		filter0 + `.default_source_code.filename`:      {"inline_code: filter", "default_source_code: {filename: ''}"},
	} {
		_, err := Bootstrap([]byte(strings.Replace(text, wrong[0], wrong[1], 1)), opts)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %s", err, what)
		}
	}
	l := b.Listeners[0].Source.(*listenerv3.Listener)
	if _, err := Listener(l, Options{Static: b}); err != nil {
		t.Errorf("a listener that comes later: %v", err)
	}
	if _, err := Bootstrap([]byte(text), Options{}); err == nil || !strings.Contains(err.Error(), filter0+": extension f ("+string(luaType)+") is not supported by outrider") {
		t.Errorf("without its decoder: got %v", err)
	}
}

func TestAnOptionalExtensionThatIsUnknownIsLeftOut(t *testing.T) {
	lua := "typed_config: {" + typeOf + "filters.http.lua.v3.Lua, inline_code: x}"
	text := string(changed(t, inFilters, inFilters+"          - {name: f, is_optional: true, "+lua+"}\n"))
	config := `{"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, is_optional: true, config: {` + typeOf + `filters.http.lua.v3.Lua, inline_code: x}}`
	text = strings.Replace(text, prefixOnly, prefixOnly+"\n                typed_per_filter_config: {f: "+config+"}", 1)
	b, err := Bootstrap([]byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := b.Listeners[0].Chains[0].Filters[0].HTTP
	if len(m.Filters) != 1 || m.Filters[0].Name != "router" || len(m.Routes.VirtualHosts[0].Routes[0].PerFilter) != 0 {
		t.Errorf("filters %v, overrides %v: want the router alone", m.Filters, m.Routes.VirtualHosts[0].Routes[0].PerFilter)
	}
	if len(b.Warnings) != 2 {
		t.Errorf("warnings %q, want one for each", b.Warnings)
	}
	if _, err := Bootstrap([]byte(strings.Replace(text, "is_optional: true", "is_optional: false", 1)), Options{}); err == nil {
		t.Error("it is left out though it is not optional")
	}
}

func TestAnOptionalExtensionThatIsKnownIsChecked(t *testing.T) {
	text := changed(t, inFilters, inFilters+"          - {name: f, is_optional: true, typed_config: {"+typeOf+"filters.http.buffer.v3.Buffer, max_request_bytes: 0}}\n")
	if _, err := Bootstrap(text, Options{}); err == nil || !strings.Contains(err.Error(), filter0+".max_request_bytes: 0: value must be greater than 0") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownRetryConditionsAreToldAndLeftOut(t *testing.T) {
	b, err := Bootstrap(changed(t, toUp, inAction("retry_policy: {retry_on: 'connect-failure,teapot'}")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	on := b.Listeners[0].Chains[0].Filters[0].HTTP.Routes.VirtualHosts[0].Routes[0].Action.Retry.On
	if len(on) != 1 || on[0] != "connect-failure" || len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], `"teapot"`) {
		t.Errorf("retry_on %q, warnings %q", on, b.Warnings)
	}
}

func TestTypedStructsHoldAnyFilter(t *testing.T) {
	for _, structType := range []string{"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"} {
		wrapped := func(typeName, value string) string {
			return `{"@type": type.googleapis.com/` + structType + `, type_url: type.googleapis.com/envoy.extensions.filters.http.` + typeName + `, value: ` + value + `}`
		}
		text := string(changed(t, inFilters, inFilters+"          - {name: b, typed_config: "+wrapped("buffer.v3.Buffer", "{max_request_bytes: 7}")+"}\n"))
		text = strings.Replace(text, prefixOnly, prefixOnly+"\n                typed_per_filter_config: {b: "+wrapped("buffer.v3.BufferPerRoute", "{buffer: {maxRequestBytes: 8}}")+"}", 1)
		b, err := Bootstrap([]byte(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := b.Listeners[0].Chains[0].Filters[0].HTTP
		same(t, structType, m.Filters[0].Config, &config.HTTPBuffer{MaxBytes: 7})
		same(t, structType, m.Routes.VirtualHosts[0].Routes[0].PerFilter["b"].Config, &config.HTTPBuffer{MaxBytes: 8})
		_, err = Bootstrap([]byte(strings.Replace(text, "max_request_bytes: 7", "max_bytes: 7", 1)), Options{})
		if err == nil || !strings.Contains(err.Error(), filter0+".value.max_bytes: is not a field of") {
			t.Errorf("got %v", err)
		}
	}
}

func TestNoLimitOfDirectResponsesIsZero(t *testing.T) {
	text := string(changed(t, toUp, "direct_response: {status: 200, body: {inline_string: "+strings.Repeat("a", 4097)+"}}"))
	if _, err := Bootstrap([]byte(text), Options{}); err == nil {
		t.Error("4097 bytes are taken by default")
	}
	text = strings.Replace(text, inRoutes, inRoutes+"\n            max_direct_response_body_size_bytes: 0", 1)
	if _, err := Bootstrap([]byte(text), Options{}); err != nil {
		t.Error(err)
	}
}
