package proxy

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"outrider/proxy/filter"
	"outrider/proxy/flow"
)

type keptEntries []string

func (k *keptEntries) Log(info *flow.Info, event filter.AccessEvent) {
	ended := "ended"
	if info.End.Before(info.Start) {
		ended = "not ended"
	}
	*k = append(*k, strings.Join([]string{info.Listener, info.Remote.String(), ended, event.String(), strconv.FormatUint(info.Sent.Load(), 10)}, " "))
}

func TestEveryAdminRequestIsLogged(t *testing.T) {
	var kept keptEntries
	h := logged(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 150))
		w.(http.Flusher).Flush()
		_, _ = w.Write(make([]byte, 50))
	}), []filter.AccessLogger{&kept})
	for range 2 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/stats", nil))
	}
	want := "admin 192.0.2.1:1234 ended " + filter.EventNotSet.String() + " 200"
	if len(kept) != 2 || kept[0] != want || kept[1] != want {
		t.Errorf("got %q, want twice %q", kept, want)
	}
}
