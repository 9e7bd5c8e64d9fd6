package decode

import (
	"strings"
	"testing"
)

// BenchmarkPush is how long a push of istiod's takes to decode, by kind.
func BenchmarkPush(b *testing.B) {
	all := pushes(b)
	for _, kind := range []string{"lds", "cds", "eds", "rds"} {
		b.Run(kind, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n = 0
				for name, resources := range all {
					if !strings.HasSuffix(name, kind) {
						continue
					}
					for _, r := range resources {
						if _, err := decodeAny(b, r, Options{}); err != nil {
							b.Fatal(err)
						}
						n++
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/resource")
		})
	}
}
