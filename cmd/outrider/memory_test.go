package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestHowMuchGarbageThereMayBe(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 4 << 20: 800, 8 << 20: 400, 32 << 20: 100, 64 << 20: 100, 1 << 40: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes in use: %d%%, want %d%%", live, got, want)
		}
	}
}

func TestMemoryIsGivenBackOnceAfterWork(t *testing.T) {
	tr := trimmer{trimmed: 1}
	for i, step := range []struct {
		allocated uint64 // since the step before
		want      bool
	}{
		{100 << 20, false}, // at work
		{100 << 20, false},
		{100, true}, // quiet
		{100, false},
		{trimQuiet - 1, false},
		{2 * trimQuiet, false}, // little work
		{100, false},
		{trimAfter, false},
		{0, true},
		{0, false},
	} {
		if got := tr.due(tr.last + step.allocated); got != step.want {
			t.Errorf("step %d: %t, want %t", i, got, step.want)
		}
	}
}

func TestMemoryOfTheStartIsGivenBack(t *testing.T) {
	var tr trimmer
	for i, want := range []bool{false, true, false} {
		if got := tr.due(4 << 20); got != want { // all of it at the start
			t.Errorf("tick %d: %t, want %t", i, got, want)
		}
	}
}

func TestEachCollectionIsSeenUntilTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var seen atomic.Int32
	afterEachCollection(ctx, func() { seen.Add(1) })
	for want := int32(1); want < 4; want++ {
		for deadline := time.Now().Add(10 * time.Second); seen.Load() < want; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%d calls, want %d", seen.Load(), want)
			}
		}
		runtime.GC()
	}
	cancel()
	runtime.GC()
	last := seen.Load()
	runtime.GC()
	runtime.GC()
	if n := seen.Load(); n > last+1 {
		t.Errorf("%d calls after the end", n-last)
	}
}
