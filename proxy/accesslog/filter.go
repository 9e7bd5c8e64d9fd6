package accesslog

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// Filter compiles a filter of access logs for use elsewhere; nil lets
// everything through. The entry has no type (ACCESS_LOG_TYPE).
func Filter(f *config.AccessLogFilter) (func(*flow.Info) bool, error) {
	if err := checkFilter(f); err != nil {
		return nil, err
	}
	var cel expressions
	if err := cel.add(f); err != nil {
		return nil, err
	}
	return func(i *flow.Info) bool { return passes(f, &entry{info: i, now: time.Now(), cel: cel}) }, nil
}

// checkFilter refuses a filter that is none of the known ones.
func checkFilter(f *config.AccessLogFilter) error {
	switch {
	case f == nil:
		return nil
	case f.And != nil || f.Or != nil:
		for _, one := range slices.Concat(f.And, f.Or) {
			if err := checkFilter(one); err != nil {
				return err
			}
		}
		return nil
	case f.Header != nil:
		_, err := headers.CompileOne(*f.Header)
		return err
	case f.IsFlags, f.DurationGE != nil, f.Status, f.RuntimePPM != nil, f.NotHealth, f.LogTypes != nil, f.ExcludeTypes, f.GRPC != nil, f.Expression != "":
		return nil
	}
	return errors.New("an access log's filter says nothing")
}

// passes evaluates a filter; nil lets everything through, and a filter that is
// none of the known ones nothing.
func passes(f *config.AccessLogFilter, e *entry) bool {
	one := func(f *config.AccessLogFilter) bool { return passes(f, e) }
	switch {
	case f == nil:
		return true
	case f.NotHealth:
		return e.info.HTTP == nil || !e.info.HTTP.HealthCheck
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
		return compare(f.Op, status(e.info), int64(f.Value))
	case f.RuntimePPM != nil:
		return sampled(f, e.info)
	case f.LogTypes != nil || f.ExcludeTypes:
		return slices.Contains(f.LogTypes, e.event) != f.ExcludeTypes
	case f.Header != nil:
		return hasHeader(f.Header, e.info)
	case f.GRPC != nil:
		return hasStatus(f.GRPC, e.info)
	case f.Expression != "":
		p := e.cel[f]
		return p != nil && p.True(about(e.info))
	}
	return false
}

// status is the response code, 0 if there is none.
func status(i *flow.Info) int64 {
	if i.HTTP == nil {
		return 0
	}
	return int64(i.HTTP.Status)
}

// sampled chooses by the request's ID, so that all proxies on a request's way
// choose the same; at random if there is no ID that is a UUID.
func sampled(f *config.AccessLogFilter, i *flow.Info) bool {
	if i.HTTP != nil && !f.Independent {
		if n, ok := idNumber(requestID(i.HTTP)); ok {
			unit := max(f.RuntimeUnit, 1)
			if *f.RuntimePPM%unit != 0 {
				unit = 1 // the runtime has a share of another unit
			}
			return n%(1_000_000/uint64(unit)) < uint64(*f.RuntimePPM/unit)
		}
	}
	return rand.Uint32N(1_000_000) < *f.RuntimePPM
}

// idNumber is the first eight hex digits of a request's ID (Envoy:
// UUIDRequestIDExtension).
func idNumber(id string) (uint64, bool) {
	if len(id) < 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(id[:8], 16, 32)
	return n, err == nil
}

// hasHeader matches a header of the request. A connection has none.
func hasHeader(c *config.HeaderMatcher, i *flow.Info) bool {
	m, err := headers.CompileOne(*c)
	if err != nil {
		return false // checkFilter has said so
	}
	if i.HTTP == nil || i.HTTP.Request == nil {
		return m.Match(&message.Head{})
	}
	return m.Match(i.HTTP.Request)
}

// hasStatus takes Unknown where there is no gRPC status, as Envoy does.
func hasStatus(f *config.GRPCStatusFilter, i *flow.Info) bool {
	have := int64(unknownStatus)
	if i.HTTP != nil {
		if s, ok := i.HTTP.GRPCStatus(); ok {
			have = s
		}
	}
	found := have >= 0 && slices.Contains(f.Statuses, uint32(have))
	return found != f.Exclude
}

// unknownStatus is gRPC's UNKNOWN.
const unknownStatus = 2

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
