package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWaitEndsWhenTheSidecarIsReady(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "secret default is not there", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	if err := waitReady(t.Context(), s.URL, 10*time.Second, time.Millisecond, time.Second); err != nil || asked.Load() != 3 {
		t.Errorf("%v after %d questions, want 3", err, asked.Load())
	}
}

func TestWaitSaysWhyTheSidecarWasNotReady(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "secret default is not there", http.StatusServiceUnavailable)
	}))
	defer s.Close()
	err := waitReady(t.Context(), s.URL, 300*time.Millisecond, time.Millisecond, time.Second)
	if err == nil || !strings.Contains(err.Error(), "secret default is not there") {
		t.Errorf("%v", err)
	}
}
