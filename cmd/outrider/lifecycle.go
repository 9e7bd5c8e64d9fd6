package main

import (
	"time"

	"github.com/spf13/cobra"

	"outrider/proxy"
)

// lifecycleFlags are options of run that Envoy does not have.
type lifecycleFlags struct {
	serverFirst         bool
	serverFirstWaitMsec uint32
}

func (f *lifecycleFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.BoolVar(&f.serverFirst, "server-first", true, "while a client is silent, connect to the plaintext server and let it speak first (docs/server-first.md)")
	fs.Uint32Var(&f.serverFirstWaitMsec, "server-first-wait-msec", 50, "how long a client may be silent before that, in milliseconds")
}

func (f *lifecycleFlags) apply(o *proxy.Options) {
	o.NoServerFirst = !f.serverFirst
	o.ServerFirstWait = time.Duration(f.serverFirstWaitMsec) * time.Millisecond
}
