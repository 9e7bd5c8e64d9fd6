package hop

import (
	"fmt"
	"testing"
	"time"
)

// warmUp is how many requests come before the measuring.
const warmUp = 2000

// BenchmarkHTTP is requests of 1 KiB answers: over HTTP/2 with 8 connections of
// 16 streams and with 1 of 1, over HTTP/1.1 with 8 connections kept alive. The
// proxies speak HTTP/2 over mTLS with each other.
func BenchmarkHTTP(b *testing.B) {
	for _, load := range []struct {
		name    string
		http2   bool
		conns   int
		streams int
	}{
		{"h2 8x16", true, 8, 16},
		{"h2 1x1", true, 1, 1},
		{"h1 8", false, 8, 1},
	} {
		for _, bin := range binaries(b) {
			b.Run(fmt.Sprintf("%s/%s", load.name, bin[0]), func(b *testing.B) {
				c := start(b, bin[0], bin[1], backend(b, load.http2, 1024), load.http2)
				l := dial(b, c.addr, load.http2, load.conns)
				defer l.close()
				l.run(warmUp, load.streams)
				b.ResetTimer()
				before := c.cpu(b)
				l.run(b.N, load.streams)
				used := c.cpu(b) - before
				b.StopTimer()
				if used > 0 {
					b.ReportMetric(float64(b.N)/used.Seconds(), "req/cpu-s")
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}

// rate is below what each of them can carry, in requests a second.
const rate = 2000

// BenchmarkLatency is the latency at a fixed rate, from when a request was due.
func BenchmarkLatency(b *testing.B) {
	for _, http2 := range []bool{true, false} {
		name := map[bool]string{true: "h2", false: "h1"}[http2]
		for _, bin := range binaries(b) {
			b.Run(name+"/"+bin[0], func(b *testing.B) {
				c := start(b, bin[0], bin[1], backend(b, http2, 1024), http2)
				l := dial(b, c.addr, http2, 16)
				defer l.close()
				l.run(warmUp, 1)
				for b.Loop() {
					all := l.paced(rate, 5*time.Second)
					at := func(q float64) float64 {
						return float64(all[int(q*float64(len(all)-1))].Microseconds())
					}
					b.ReportMetric(at(0.50), "p50-us")
					b.ReportMetric(at(0.99), "p99-us")
					b.ReportMetric(at(0.999), "p99.9-us")
				}
			})
		}
	}
}
