package csr

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"

	"outrider/certs/identity"
)

// exchange is when a request went out and its answer was there, by our clock.
type exchange struct{ sent, received time.Time }

// middle is the moment at which the authority answered, give or take half of
// the round trip.
func (e exchange) middle() time.Time { return e.sent.Add(e.received.Sub(e.sent) / 2).Round(0) }

func (e exchange) half() time.Duration { return e.received.Sub(e.sent) / 2 }

// How clocks are measured (identity.Clock.From).
const (
	fromDate      = "date header"
	fromMillis    = "time header"
	fromNotBefore = "NotBefore"
)

// millisHeader is our own authority's clock in milliseconds since 1970.
const millisHeader = "x-outrider-time-ms"

// clockOfHeaders measures by our own authority's header, else by the date
// header (RFC 9110, section 6.6.1), of which the first that can be read counts.
// That is cut to whole seconds: half of one is added, and is in the margin with
// half of the round trip.
func clockOfHeaders(e exchange, headers ...metadata.MD) identity.Clock {
	for _, value := range values(millisHeader, headers) {
		if ms, err := strconv.ParseInt(value, 10, 64); err == nil && ms > 0 && ms <= maxDate*1000 {
			return identity.Clock{Ahead: time.UnixMilli(ms).Sub(e.middle()), Margin: e.half() + time.Millisecond, From: fromMillis}
		}
	}
	for _, value := range values("date", headers) {
		if date, err := http.ParseTime(value); err == nil {
			return identity.Clock{Ahead: date.Add(time.Second / 2).Sub(e.middle()), Margin: e.half() + time.Second/2, From: fromDate}
		}
	}
	return identity.Clock{}
}

func values(name string, headers []metadata.MD) []string {
	var out []string
	for _, h := range headers {
		out = append(out, h.Get(name)...)
	}
	return out
}

// backdate is by how much istiod dates certificates back. Other authorities
// do so by less (SPIRE: ten seconds) or not at all.
const backdate = 2 * time.Minute

// slack keeps clocks that are nearly right from being called wrong where an
// authority dates nothing back.
const slack = 30 * time.Second

// clockOfNotBefore estimates from the NotBefore of a new certificate, taking
// the authority for istiod. The margin, two and a half minutes and half of the
// round trip, covers all that date back by up to four. One that does so by more
// seems to have a clock that is behind.
func clockOfNotBefore(e exchange, notBefore time.Time) identity.Clock {
	return identity.Clock{
		Ahead:  notBefore.Add(backdate).Sub(e.middle()),
		Margin: e.half() + backdate + slack,
		From:   fromNotBefore,
	}
}

// describeClock says for people how the authority's clock and ours differ.
func describeClock(c identity.Clock) string {
	switch {
	case c.From == "":
		return "the authority's clock is not known"
	case c.Ahead.Abs() <= c.Margin:
		return fmt.Sprintf("the authority's clock and ours agree within %s (%s)", round(c.Ahead.Abs()+c.Margin), c.From)
	case c.Ahead > 0:
		return fmt.Sprintf("the authority's clock is %s ahead of ours, give or take %s (%s)", round(c.Ahead), round(c.Margin), c.From)
	}
	return fmt.Sprintf("the authority's clock is %s behind ours, give or take %s (%s)", round(-c.Ahead), round(c.Margin), c.From)
}

// differ says that the clocks are apart by more than what the measure leaves
// open.
func differ(c identity.Clock) bool { return c.From != "" && c.Ahead.Abs() > c.Margin }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}
