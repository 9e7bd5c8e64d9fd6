package accesslog

import (
	"math/rand/v2"
	"slices"
	"time"

	"outrider/proxy/config"
)

// passes evaluates a filter; nil lets everything through, and a filter that is
// none of the known ones nothing.
func passes(f *config.AccessLogFilter, e *entry) bool {
	one := func(f *config.AccessLogFilter) bool { return passes(f, e) }
	switch {
	case f == nil, f.NotHealth:
		return true
	case f.And != nil:
		return !slices.ContainsFunc(f.And, func(f *config.AccessLogFilter) bool { return !one(f) })
	case f.Or != nil:
		return slices.ContainsFunc(f.Or, one)
	case f.IsFlags:
		if len(f.Flags) == 0 {
			return e.info.Flags != 0
		}
		return e.info.Flags.HasAny(f.Flags)
	case f.DurationGE != nil:
		took := e.ended().Sub(e.info.Start).Truncate(time.Millisecond)
		return compare(f.Op, int64(took), int64(*f.DurationGE))
	case f.Status:
		return compare(f.Op, 0, int64(f.Value))
	case f.RuntimePPM != nil:
		return rand.Uint32N(1_000_000) < *f.RuntimePPM
	case f.LogTypes != nil || f.ExcludeTypes:
		return slices.Contains(f.LogTypes, e.event) != f.ExcludeTypes
	}
	return false
}

func compare(op string, have, want int64) bool {
	switch op {
	case "EQ":
		return have == want
	case "GE":
		return have >= want
	case "LE":
		return have <= want
	case "NE":
		return have != want
	}
	return false
}
