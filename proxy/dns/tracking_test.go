package dns

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel answers in the place of connection tracking.
type kernel struct {
	asked  []netlink.Message
	answer func(netlink.Message) ([]netlink.Message, error)
	closed bool
}

func (k *kernel) Execute(m netlink.Message) ([]netlink.Message, error) {
	k.asked = append(k.asked, m)
	return k.answer(m)
}
func (k *kernel) SetDeadline(time.Time) error { return nil }
func (k *kernel) Close() error                { k.closed = true; return nil }

// trackingOver asks k.
func trackingOver(k *kernel, log *slog.Logger) *tracking {
	t := newTracking(log)
	t.dial = func() (asker, error) { return k, nil }
	return t
}

var (
	asking  = netip.MustParseAddrPort("10.1.0.1:40000")
	asked   = netip.MustParseAddrPort("127.0.0.1:15053")
	asking6 = netip.MustParseAddrPort("[fd01::1]:40000")
	asked6  = netip.MustParseAddrPort("[::1]:15053")
)

// The question as the kernel takes it: nfnetlink_conntrack.h, and the
// end-to-end test, whose kernel understands it.
func TestTheQuestionToConnectionTracking(t *testing.T) {
	for want, q := range map[string]struct {
		from, local netip.AddrPort
		zone        uint16
	}{
		"02000000" + "34000280" + "14000180" + "08000100" + "7f000001" + "08000200" + "0a010001" + "1c000280" + "0500010011000000" + "060002003acd0000" + "060003009c400000" + "0600120000020000":                            {asking, asked, 2},
		"0a000000" + "4c000280" + "2c000180" + "14000300" + "00000000000000000000000000000001" + "14000400" + "fd010000000000000000000000000001" + "1c000280" + "0500010011000000" + "060002003acd0000" + "060003009c400000": {asking6, asked6, 0},
	} {
		m, err := trackingQuery(q.from, q.local, q.zone)
		if got := hex.EncodeToString(m.Data); err != nil || got != want || m.Header.Type != 0x101 {
			t.Errorf("%v:\n got %s, %v\nwant %s", q, got, err, want)
		}
	}
	if _, err := trackingQuery(asking6, asked, 0); err == nil {
		t.Error("a question of two families is taken")
	}
}

// flow is an answer: a tuple of the original direction with a destination.
func flow(to netip.AddrPort) netlink.Message {
	m, err := trackingQuery(to, netip.AddrPortFrom(to.Addr(), 1), 2)
	if err != nil {
		panic(err)
	}
	m.Data[6] = ctaTupleOrig // for the reply's
	return m
}

func TestTheDestinationThatAFlowHad(t *testing.T) {
	for _, to := range []string{"10.9.0.1:53", "[fd09::1]:53"} {
		k := &kernel{answer: func(netlink.Message) ([]netlink.Message, error) {
			return []netlink.Message{flow(netip.MustParseAddrPort(to))}, nil
		}}
		got, ok := trackingOver(k, slog.New(slog.DiscardHandler)).original(asking, asked)
		if !ok || got.String() != to {
			t.Errorf("%s, %t, want %s", got, ok, to)
		}
	}
}

func TestAFlowOfNoZoneIsFound(t *testing.T) {
	to := netip.MustParseAddrPort("10.9.0.1:53")
	k := &kernel{answer: func(m netlink.Message) ([]netlink.Message, error) {
		if plain, err := trackingQuery(asking, asked, 0); err != nil || len(m.Data) != len(plain.Data) {
			return nil, unix.ENOENT
		}
		return []netlink.Message{flow(to)}, nil
	}}
	if got, ok := trackingOver(k, slog.New(slog.DiscardHandler)).original(asking, asked); !ok || got != to {
		t.Errorf("%s, %t, want %s", got, ok, to)
	}
}

func TestConnectionTrackingThatKnowsNothing(t *testing.T) {
	var log lines
	k := &kernel{answer: func(netlink.Message) ([]netlink.Message, error) { return nil, fmt.Errorf("netlink: %w", unix.ENOENT) }}
	tr := trackingOver(k, slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		if to, ok := tr.original(asking, asked); ok {
			t.Errorf("it has %s", to)
		}
	}
	if len(k.asked) != 4 || k.closed || log.String() != "" {
		t.Errorf("asked %d times, want in two zones each time; closed %t, log %q", len(k.asked), k.closed, &log)
	}
	tr.Close()
	if _, ok := tr.original(asking, asked); ok || !k.closed || len(k.asked) != 4 {
		t.Errorf("after Close: closed %t, asked %d times", k.closed, len(k.asked))
	}
}

func TestWithoutLeaveConnectionTrackingIsAskedOnce(t *testing.T) {
	for name, tr := range map[string]func(*slog.Logger, *kernel) *tracking{
		"to ask": func(log *slog.Logger, k *kernel) *tracking { return trackingOver(k, log) },
		"to have a socket": func(log *slog.Logger, k *kernel) *tracking {
			t := newTracking(log)
			t.dial = func() (asker, error) { return nil, unix.EPERM }
			k.asked = make([]netlink.Message, 1)
			return t
		},
	} {
		var log lines
		k := &kernel{answer: func(netlink.Message) ([]netlink.Message, error) { return nil, unix.EPERM }}
		x := tr(slog.New(slog.NewTextHandler(&log, nil)), k)
		for range 3 {
			if to, ok := x.original(asking, asked); ok {
				t.Errorf("%s: it has %s", name, to)
			}
		}
		if len(k.asked) != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "those of resolv.conf are asked") {
			t.Errorf("%s: asked %d times, log %q; want once each", name, len(k.asked), &log)
		}
	}
}

// FuzzTrackedDestination promises that no answer makes it panic, and that it is
// either an address with a port or nothing.
func FuzzTrackedDestination(f *testing.F) {
	f.Add(flow(netip.MustParseAddrPort("10.9.0.1:53")).Data)
	f.Add(flow(netip.MustParseAddrPort("[fd09::1]:53")).Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		to, ok, err := trackedDestination(b)
		if ok && (err != nil || !to.IsValid() || to.Port() == 0) {
			t.Errorf("%s, %v", to, errors.Unwrap(err))
		}
	})
}
