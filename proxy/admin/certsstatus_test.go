package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"outrider/certs"
)

func TestCertsStatusHasNamedSecretsAndEachInlineOneOnce(t *testing.T) {
	inline := func(version string) *certs.Handle {
		return certs.NewHandle(certs.Ref{Inline: &certs.Secret{Version: version, From: "inline", TicketKeys: make([][32]byte, 1)}})
	}
	waiting := certs.NewHandle(certs.Ref{Name: "default"})
	o := options(nil)
	o.Secrets = func() []*certs.Handle { return []*certs.Handle{waiting} }
	o.Inline = func() []*certs.Handle { return []*certs.Handle{inline("1"), inline("2"), inline("1")} }

	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		New(o).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	var got CertsStatus
	if err := json.Unmarshal(get("/certs/status").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Secrets) != 3 || got.Secrets[0].Name != "default" || got.Secrets[0].State != certs.StateWaiting || got.Secrets[2].Kind != certs.KindTicketKeys {
		t.Errorf("got %+v", got.Secrets)
	}
	if got.Time.IsZero() {
		t.Error("there is no time")
	}
	if text := get("/certs/status?format=text").Body.String(); strings.Count(text, "\n") != 4 || !strings.HasPrefix(text, "SECRET ") {
		t.Errorf("got %q", text)
	}
	if w := get("/certs/status?format=xml"); w.Code != http.StatusBadRequest {
		t.Errorf("another format: %d, want 400", w.Code)
	}
}
