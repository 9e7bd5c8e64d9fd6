package main

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// Settings of keepMemory.
const (
	// heapHeadroom is how much garbage there may be however little is in use.
	// A proxy's heap is small, and with Go's own rule (as much garbage as there
	// is in use) it would be collected many times a second under load: each
	// time some requests wait for it.
	heapHeadroom = 32 << 20 // bytes
	// heapMinimum is the heap below which Go does not collect with GOGC=100; it
	// is in proportion to GOGC.
	heapMinimum = 4 << 20 // bytes
	// memoryShare is the part of the container's memory limit near which the
	// collector runs as often as it must.
	memoryShare = 0.9

	trimEvery = 2 * time.Second
	// trimQuiet is how little is allocated in that time when nothing happens,
	// and trimAfter how much since memory was given back last.
	trimQuiet = 512 << 10 // bytes
	trimAfter = 16 << 20  // bytes
)

// keepOffTheStart has the first garbage collection wait until the start is over,
// of whose time it would take a tenth to find next to nothing.
func keepOffTheStart() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent(0))
	}
}

// keepMemory has the garbage collector keep to the container's memory limit and
// out of the way below it, and gives memory back while nothing happens, until
// the function that it returns is called. GOGC and GOMEMLIMIT, where they are
// set, say otherwise.
func keepMemory(log *slog.Logger) (stop func()) {
	// GOMEMLIMIT and no limit are not errors of it.
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(memlimit.FromCgroup))
	if err != nil {
		log.Debug("the container's memory limit is not known", "error", err)
	} else {
		log.Debug("the garbage collector keeps to a limit", "bytes", limit)
	}
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	afterEachCollection(ctx, func() { debug.SetGCPercent(gcPercent(readMetric("/gc/heap/live:bytes"))) })
	var trimming sync.WaitGroup
	trimming.Go(func() { trim(ctx, log) })
	return func() {
		cancel()
		trimming.Wait()
	}
}

// trim gives memory back while nothing happens: the first time what only the
// start needed, of the program too.
func trim(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for t := (trimmer{}); ; {
		select {
		case <-tick.C:
			if t.due(readMetric("/gc/heap/allocs:bytes")) {
				debug.FreeOSMemory()
				if err := dropProgramPages(); err != nil {
					log.Debug("the start's pages of the program stay mapped", "error", err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// afterEachCollection calls do now and after each garbage collection, until ctx
// ends: a value that nothing holds is cleaned up by each.
func afterEachCollection(ctx context.Context, do func()) {
	if ctx.Err() != nil {
		return
	}
	do()
	runtime.AddCleanup(new([16]byte), func(struct{}) { afterEachCollection(ctx, do) }, struct{}{})
}

// gcPercent is GOGC for so many bytes in use: as much garbage again, and about
// heapHeadroom at least.
func gcPercent(live uint64) int {
	return int(max(100, 100*heapHeadroom/max(live, heapMinimum)))
}

// trimmer says when to give memory back.
type trimmer struct{ last, trimmed uint64 }

// due is asked at each tick, with the bytes that have ever been allocated. The
// first quiet tick is due whatever the start took.
func (t *trimmer) due(allocated uint64) bool {
	quiet := allocated-t.last < trimQuiet
	t.last = allocated
	if !quiet || t.trimmed > 0 && allocated-t.trimmed < trimAfter {
		return false
	}
	t.trimmed = allocated
	return true
}

func readMetric(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
