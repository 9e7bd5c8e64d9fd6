package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"outrider/proxy"
)

// lifecycleFlags are options of run that Envoy does not have.
type lifecycleFlags struct {
	serverFirst         bool
	serverFirstWaitMsec uint32
	holdS, minDrainS    uint32
	exitOnZero          bool
	loopGuard           bool

	onExpired, onRootRemoved, onRevoked string
	endGrace, endJitter                 time.Duration
}

func (f *lifecycleFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.BoolVar(&f.serverFirst, "server-first", true, "while a client is silent, connect to the plaintext server and let it speak first (docs/server-first.md)")
	fs.Uint32Var(&f.serverFirstWaitMsec, "server-first-wait-msec", 50, "how long a client may be silent before that, in milliseconds")
	fs.Uint32Var(&f.holdS, "hold-until-ready-s", 0, "seconds after the start for which connections are held whose secrets or clusters are not there yet; 0 does not hold (docs/lifecycle.md)")
	fs.BoolVar(&f.exitOnZero, "exit-on-zero-connections", true, "after SIGTERM, end when no connection is open; if false, OUTBOUND listeners go on for --drain-time-s")
	fs.Uint32Var(&f.minDrainS, "minimum-drain-time-s", 0, "seconds after SIGTERM for which OUTBOUND listeners go on though no connection is open")
	fs.StringVar(&f.onExpired, "on-peer-expired", "keep", "keep or close open connections whose peer's certificate has expired")
	fs.StringVar(&f.onRootRemoved, "on-root-removed", "keep", "keep or close open connections whose peer's root is not trusted any more")
	fs.StringVar(&f.onRevoked, "on-peer-revoked", "keep", "keep or close open connections whose peer's certificate is on a revocation list now")
	fs.DurationVar(&f.endGrace, "end-grace", 0, "how long a connection that is to be closed for that goes on")
	fs.DurationVar(&f.endJitter, "end-jitter", 5*time.Second, "the longest time that is added to it at random")
	fs.BoolVar(&f.loopGuard, "loop-guard", false, "refuse connections to listeners that take redirected ones, if they were not redirected")
}

func (f *lifecycleFlags) check() error {
	switch {
	case f.serverFirst && f.serverFirstWaitMsec == 0:
		return &usageError{errors.New("--server-first-wait-msec 0: a server would be dialled for every client; --server-first=false dials none")}
	case f.minDrainS > 0 && !f.exitOnZero:
		return &usageError{errors.New("--minimum-drain-time-s is for --exit-on-zero-connections: without it the whole drain time is waited for")}
	}
	for flag, value := range map[string]string{"on-peer-expired": f.onExpired, "on-root-removed": f.onRootRemoved, "on-peer-revoked": f.onRevoked} {
		if value != "keep" && value != "close" {
			return &usageError{fmt.Errorf("--%s %q: it is keep or close", flag, value)}
		}
	}
	if f.endGrace < 0 || f.endJitter < 0 {
		return &usageError{errors.New("--end-grace and --end-jitter are not negative")}
	}
	return nil
}

func (f *lifecycleFlags) apply(o *proxy.Options) {
	o.NoServerFirst = !f.serverFirst
	o.Hold = time.Duration(f.holdS) * time.Second
	o.DrainFully = !f.exitOnZero
	o.MinDrainTime = time.Duration(f.minDrainS) * time.Second
	o.LoopGuard = f.loopGuard
	o.Peers = proxy.PeerOptions{
		Expired: f.onExpired == "close", RootRemoved: f.onRootRemoved == "close", Revoked: f.onRevoked == "close",
		Grace: f.endGrace, Jitter: f.endJitter,
	}
	o.ServerFirstWait = time.Duration(f.serverFirstWaitMsec) * time.Millisecond
}
