package csr

import (
	"crypto/tls"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"outrider/certs/identity"
)

func httpDate(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") }

func TestClockIsMeasuredByHeaders(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := exchange{start, start.Add(2 * time.Second)}
	byDate := func(ahead time.Duration) identity.Clock {
		return identity.Clock{Ahead: ahead, Margin: 1500 * time.Millisecond, From: "date header"}
	}
	later, ms := httpDate(start.Add(time.Minute)), strconv.FormatInt(start.Add(time.Minute).UnixMilli(), 10)
	for _, c := range []struct {
		name string
		md   []metadata.MD
		want identity.Clock
	}{
		{"ahead", []metadata.MD{metadata.Pairs("date", later)}, byDate(59*time.Second + 500*time.Millisecond)},
		{"behind", []metadata.MD{metadata.Pairs("date", httpDate(start.Add(-time.Minute)))}, byDate(-60*time.Second - 500*time.Millisecond)},
		{"in the trailer", []metadata.MD{nil, metadata.Pairs("date", later)}, byDate(59*time.Second + 500*time.Millisecond)},
		{"the first that can be read", []metadata.MD{metadata.Pairs("date", "today", "date", later)}, byDate(59*time.Second + 500*time.Millisecond)},
		{"none", []metadata.MD{{}}, identity.Clock{}},
		{"unreadable", []metadata.MD{metadata.Pairs("date", "today", millisHeader, "9223372036854775807")}, identity.Clock{}},
		{"milliseconds", []metadata.MD{metadata.Pairs("date", later, millisHeader, ms)},
			identity.Clock{Ahead: 59 * time.Second, Margin: 1001 * time.Millisecond, From: "time header"}},
	} {
		if got := clockOfHeaders(e, c.md...); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestClockIsEstimatedByNotBeforeAsIstiodDates(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := exchange{now, now}
	for _, c := range []struct {
		name      string
		notBefore time.Time
		ahead     time.Duration
		differ    bool
	}{
		{"istiod with our clock", now.Add(-2 * time.Minute), 0, false},
		{"an authority that dates nothing back", now, 2 * time.Minute, false},
		{"istiod ten minutes ahead", now.Add(8 * time.Minute), 10 * time.Minute, true},
		{"istiod ten minutes behind", now.Add(-12 * time.Minute), -10 * time.Minute, true},
	} {
		got := clockOfNotBefore(e, c.notBefore)
		if want := (identity.Clock{Ahead: c.ahead, Margin: 150 * time.Second, From: "NotBefore"}); got != want || differ(got) != c.differ {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
	}
}

func TestIssuedCarriesTheAuthoritysClock(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	for _, c := range []struct {
		name string
		date func() string
		from string
		want time.Duration
	}{
		{"no header", nil, "NotBefore", 0},
		{"unreadable header", func() string { return "today" }, "NotBefore", 0},
		{"an hour ahead", func() string { return httpDate(time.Now().Add(time.Hour)) }, "date header", time.Hour},
		{"an hour behind", func() string { return httpDate(time.Now().Add(-time.Hour)) }, "date header", -time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.dates(c.date)
			got, err := a.client().Issue(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if off := (got.Clock.Ahead - c.want).Abs(); got.Clock.From != c.from || off > got.Clock.Margin {
				t.Errorf("got %+v, want %s by %q", got.Clock, c.want, c.from)
			}
		})
	}
}

func TestClockIsDescribedForPeople(t *testing.T) {
	for _, c := range []struct {
		clock identity.Clock
		want  string
	}{
		{identity.Clock{}, "is not known"},
		{identity.Clock{Ahead: 300 * time.Millisecond, Margin: time.Second, From: "date header"}, "agree within 1s (date header)"},
		{identity.Clock{Ahead: time.Hour, Margin: time.Second, From: "date header"}, "is 1h0m0s ahead of ours, give or take 1s"},
		{identity.Clock{Ahead: -time.Hour, Margin: 600 * time.Millisecond, From: "date header"}, "is 1h0m0s behind ours, give or take 600ms"},
	} {
		if got := describeClock(c.clock); !strings.Contains(got, c.want) {
			t.Errorf("got %q, want %q in it", got, c.want)
		}
	}
}
