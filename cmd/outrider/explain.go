package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"outrider/proxy"
)

// explainFlags describe the connection.
type explainFlags struct {
	runFlags
	query proxy.QueryText
	json  bool
}

func newExplainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain -c FILE",
		Short: "Say which chain, cluster, endpoint and identity rule a connection meets, and why",
		RunE: func(c *cobra.Command, _ []string) error {
			return explain(f, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f.registerConfig(c)
	fs := c.Flags()
	fs.StringVar(&f.query.Listener, "listener", "", "listener that accepts it; without, the one that --destination belongs to")
	fs.StringVar(&f.query.Destination, "destination", "", "original destination, IP:PORT; without, the listener's own address")
	fs.StringVar(&f.query.Source, "source", "", "the client, IP:PORT")
	fs.BoolVar(&f.query.TLS, "tls", false, "the client speaks TLS (also said by --sni, --alpn and --peer)")
	fs.StringVar(&f.query.SNI, "sni", "", "server name in the ClientHello")
	fs.StringSliceVar(&f.query.ALPN, "alpn", nil, "protocols in the ClientHello, in order")
	fs.StringVar(&f.query.Peer, "peer", "", "the client's identity: a SPIFFE ID, or a PEM file with its chain")
	fs.StringVar(&f.query.Request, "request", "", "a request on the connection: METHOD URL")
	fs.StringArrayVar(&f.query.Headers, "header", nil, "a header of the request, NAME: VALUE; may be repeated")
	fs.BoolVar(&f.json, "json", false, "print JSON")
	return c
}

func explain(f explainFlags, stdout, stderr io.Writer) error {
	query, err := f.query.Parse()
	if err != nil {
		return &usageError{err}
	}
	boot, err := f.load()
	if err != nil {
		return refuse(f.runFlags, err, stderr)
	}
	server, err := proxy.New(boot, proxy.Options{Log: slog.New(slog.DiscardHandler), NoSockets: true})
	if err != nil {
		return refuse(f.runFlags, err, stderr)
	}
	x, err := server.Explain(query)
	if err != nil {
		return &usageError{err}
	}
	if f.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(x)
	}
	_, err = fmt.Fprint(stdout, x.Text())
	return err
}
