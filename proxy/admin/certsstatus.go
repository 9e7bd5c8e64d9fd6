package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"outrider/certs"
)

// CertsStatusHandler answers with the status of the secrets that handles
// returns: as JSON, an object with the time and the list of certs.SecretStatus,
// or with ?format=text as a table.
func CertsStatusHandler(handles func() []*certs.Handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		status := CertsStatus{Time: now, Secrets: certs.Report(handles(), now)}
		// Every error below is that the client has gone: there is nobody to tell.
		switch r.URL.Query().Get("format") {
		case "text":
			w.Header().Set("Content-Type", textType)
			_ = certs.Table(w, status.Secrets, now)
		case "", "json":
			w.Header().Set("Content-Type", "application/json")
			enc := json.NewEncoder(w)
			enc.SetIndent("", " ")
			_ = enc.Encode(status)
		default:
			refuse(w, http.StatusBadRequest, "usage: /certs/status?format=(json|text)\n\n")
		}
	})
}

// CertsStatus is the answer of /certs/status.
type CertsStatus struct {
	Time    time.Time            `json:"time"`
	Secrets []certs.SecretStatus `json:"secrets"`
}

// allSecrets are named secrets, and each inline one once: every listener that
// has it has a handle of its own.
func (a *handler) allSecrets() []*certs.Handle {
	out := a.opts.Secrets()
	seen := map[string]bool{}
	for _, h := range a.opts.Inline() {
		secret, err := h.Current()
		if err != nil || seen[secret.Version] {
			continue
		}
		seen[secret.Version] = true
		out = append(out, h)
	}
	return out
}
