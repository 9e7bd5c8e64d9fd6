// Floor is the simplest Go proxy: accept, dial, io.Copy both ways. It is what
// bench/peers holds outrider against.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "", "address to listen at")
	target := flag.String("target", "", "address to connect to")
	in := flag.Bool("in", false, "terminate mTLS")
	out := flag.Bool("out", false, "originate mTLS")
	cert := flag.String("cert", "", "certificate chain, PEM")
	key := flag.String("key", "", "private key, PEM")
	root := flag.String("root", "", "root certificates, PEM")
	name := flag.String("name", "", "the server's name")
	flag.Parse()

	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	dial := func() (net.Conn, error) { return net.Dial("tcp", *target) }
	if *in || *out {
		config, err := mutual(*cert, *key, *root, *name)
		if err != nil {
			return err
		}
		if *in {
			ln = tls.NewListener(ln, config)
		}
		if *out {
			dial = func() (net.Conn, error) { return tls.Dial("tcp", *target, config) }
		}
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go serve(c, dial)
	}
}

// mutual is one configuration for both sides.
func mutual(cert, key, root, name string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate", root)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ServerName: name,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}, nil
}

// halfCloser is *net.TCPConn and *tls.Conn.
type halfCloser interface{ CloseWrite() error }

func serve(down net.Conn, dial func() (net.Conn, error)) {
	defer down.Close()
	if c, ok := down.(*tls.Conn); ok && c.Handshake() != nil {
		return
	}
	up, err := dial()
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(up, down)
		up.(halfCloser).CloseWrite()
	}()
	io.Copy(down, up)
	down.(halfCloser).CloseWrite()
	<-done
}
