package decode

import (
	"strings"
	"testing"
)

func TestServerFirstIsChosenByMetadata(t *testing.T) {
	for metadata, want := range map[string]struct {
		off   bool
		wrong string
	}{
		"{}": {},
		"{filter_metadata: {istio: {anything: 1}}}":                {},
		"{filter_metadata: {outrider: {server_first: true}}}":      {},
		"{filter_metadata: {outrider: {server_first: false}}}":     {off: true},
		"{filter_metadata: {outrider: {server_first: \"false\"}}}": {wrong: `metadata.filter_metadata["outrider"].server_first: `},
		"{filter_metadata: {outrider: {serverfirst: false}}}":      {wrong: `serverfirst: is not known`},
	} {
		boot, err := Bootstrap([]byte(`
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 1}}
    metadata: `+metadata+`
    filter_chains: [{filters: [{name: e, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]
`), Options{})
		switch {
		case want.wrong != "":
			if err == nil || !strings.Contains(err.Error(), want.wrong) {
				t.Errorf("%s: got %v, want %q", metadata, err, want.wrong)
			}
		case err != nil:
			t.Errorf("%s: %v", metadata, err)
		case boot.Listeners[0].NoServerFirst != want.off:
			t.Errorf("%s: NoServerFirst is %v", metadata, !want.off)
		}
	}
}
