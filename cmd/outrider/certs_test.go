package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/admin"
)

// certificateUntil is a secret whose certificate ends then.
func certificateUntil(t *testing.T, end time.Time) *certs.Handle {
	t.Helper()
	root, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	one, err := root.Issue(ca.Leaf{ID: "spiffe://td/ns/a/sa/b", NotAfter: end})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(one.ChainPEM, one.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	h := certs.NewHandle(certs.Ref{Name: "default"})
	h.Publish(&certs.Secret{Name: "default", Version: "1", KeyPair: pair})
	return h
}

// statusServer serves the status of handles, on a unix socket if path is one.
func statusServer(t *testing.T, path string, handles ...*certs.Handle) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(admin.CertsStatusHandler(func() []*certs.Handle { return handles }))
	if path != "" {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server.Listener.Close()
		server.Listener = ln
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestCertsFailsIfASecretIsOfNoUse(t *testing.T) {
	good, over := certificateUntil(t, time.Now().Add(time.Hour)), certificateUntil(t, time.Now().Add(-time.Minute))
	for name, c := range map[string]struct {
		handles []*certs.Handle
		want    int
		shows   string
	}{
		"all are good": {[]*certs.Handle{good}, exitOK, "spiffe://td/ns/a/sa/b"},
		"none":         {nil, exitOK, "SECRET"},
		"one expired":  {[]*certs.Handle{good, over}, exitFailed, "expired 1m"},
		"one missing":  {[]*certs.Handle{good, certs.NewHandle(certs.Ref{Name: "ROOTCA"})}, exitFailed, "waiting"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			got := run(t.Context(), []string{"certs", "--admin", statusServer(t, "", c.handles...)}, &out, &errs)
			if got != c.want || !strings.Contains(out.String(), c.shows) {
				t.Errorf("exit code %d, want %d, and %q in\n%s%s", got, c.want, c.shows, out.String(), errs.String())
			}
		})
	}
}

func TestCertsReadsAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	statusServer(t, path, certificateUntil(t, time.Now().Add(time.Hour)))
	var out, errs bytes.Buffer
	if got := run(t.Context(), []string{"certs", "--json", "--admin", "unix:" + path}, &out, &errs); got != exitOK {
		t.Fatalf("exit code %d: %s", got, errs.String())
	}
	var status admin.CertsStatus
	if err := json.Unmarshal(out.Bytes(), &status); err != nil || len(status.Secrets) != 1 || status.Secrets[0].Leaf == nil {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestCertsRefusesAnswersOfOthers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not found":    http.NotFound,
		"another JSON": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{}`)) },
		"not JSON":     func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`LIVE`)) },
		"a redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(h)
			defer server.Close()
			var out, errs bytes.Buffer
			if got := run(t.Context(), []string{"certs", "--admin", server.Listener.Addr().String()}, &out, &errs); got != exitFailed || errs.Len() == 0 {
				t.Errorf("exit code %d, %q", got, errs.String())
			}
		})
	}
}
