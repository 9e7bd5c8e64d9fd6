package certs

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// collected waits until the garbage collector has brought about what is wanted.
func collected(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what)
		}
		runtime.GC()
		runtime.Gosched()
	}
}

func TestASecretIsFedAsLongAsSomebodyHasIt(t *testing.T) {
	var mu sync.Mutex
	fed := map[string]int{}
	feed := func(ctx context.Context, h *Handle) {
		mu.Lock()
		fed[h.Ref().Name]++
		mu.Unlock()
		h.Publish(&Secret{Name: h.Ref().Name, Version: "1"})
		<-ctx.Done()
		mu.Lock()
		defer mu.Unlock()
		fed[h.Ref().Name]--
	}
	feeds := func(name string) int {
		mu.Lock()
		defer mu.Unlock()
		return fed[name]
	}
	s := NewStore(Feeds{ADS: feed})
	s.SetStatic([]*Secret{{Name: "static", Version: "1"}})
	var run sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	run.Go(func() { _ = s.Run(ctx) })
	ref := func(name string) Ref {
		return Ref{Name: name, Source: &Source{ADS: true, InitialFetchTimeout: time.Hour}}
	}
	kept := s.Get(ref("kept"))
	for i := range 1000 {
		if h := s.Get(ref(fmt.Sprint(i))); h.Ref().Name == "" {
			t.Fatal("a handle without a name")
		}
	}
	collected(t, "secrets that nobody has are kept", func() bool { return len(s.Handles()) == 2 })
	collected(t, "a feed of nobody's goes on", func() bool { return feeds("7") == 0 && feeds("kept") == 1 })
	if s.Get(ref("kept")) != kept {
		t.Error("a secret that somebody has got another handle")
	}
	if h, err := s.Get(Ref{Name: "static"}).Current(); err != nil || h.Version != "1" {
		t.Errorf("the static secret: %v %v", h, err)
	}
	again := s.Get(ref("7"))
	collected(t, "a secret that is wanted again is not fed", func() bool { _, err := again.Current(); return err == nil && feeds("7") == 1 })
	runtime.KeepAlive(kept)
	stop()
	run.Wait()
}
