package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// verify checks that the peer does the work that it is measured at, once a run
// for each shape: what a connection speaks is checked at each handshake.
func (b *bed) verify(ctx context.Context) error {
	switch b.scene.shape {
	case terminate:
		return b.refusesStrangers(ctx, b.addr)
	case originate:
		if broken := b.origin.broken.Load(); broken != nil {
			return *broken
		}
		return b.refusesStrangeServers(ctx)
	}
	return nil
}

// once is whether a check has not been made in this run.
func (b *bed) once(check string) bool {
	key := fmt.Sprint(b.peer.name, b.scene.shape, b.scene.http, check)
	had := b.h.verified[key]
	b.h.verified[key] = true
	return !had
}

// refusesStrangers checks that a client without a certificate, and one with
// another authority's, are not served, and that the right one is.
func (b *bed) refusesStrangers(ctx context.Context, addr string) error {
	if !b.once("clients") {
		return nil
	}
	for _, client := range []struct {
		name   string
		cert   *tls.Certificate
		served bool
	}{
		{"no certificate", &tls.Certificate{}, false},
		{"another authority's certificate", &b.h.ids.stranger, false},
		{"the right certificate", &b.h.ids.client, true},
	} {
		config := b.h.ids.clientTLS(nil)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return client.cert, nil // whatever authorities the server names
		}
		c, err := dial(ctx, addr, config)
		served := err == nil && b.serves(c)
		if err == nil {
			c.Close()
		}
		if served != client.served {
			return fmt.Errorf("a client with %s: served is %t, want %t", client.name, served, client.served)
		}
	}
	return nil
}

// serves is whether the client of a connection is served: its byte comes back,
// its request is answered with 200.
func (b *bed) serves(c net.Conn) bool {
	if b.scene.http == "" {
		return answers(c)
	}
	_ = c.SetDeadline(time.Now().Add(answerTime))
	if _, err := c.Write(http1Request()); err != nil {
		return false
	}
	return readHTTP1(bufio.NewReader(c)) == nil
}

// refusesStrangeServers checks that nothing goes to a server with another
// authority's certificate.
func (b *bed) refusesStrangeServers(ctx context.Context) (err error) {
	if !b.once("servers") {
		return nil
	}
	config := b.h.ids.serverTLS(false)
	config.Certificates = []tls.Certificate{b.h.ids.stranger}
	strange, err := newOrigin(config)
	if err != nil {
		return err
	}
	defer strange.close()
	other := &bed{h: b.h, peer: b.peer, scene: b.scene, silent: true}
	defer other.close()
	addr, err := other.start(ctx, hop{target: strange.addr(), out: true})
	if err != nil {
		return err
	}
	c, err := dial(ctx, addr, nil)
	if err != nil {
		return nil
	}
	defer c.Close()
	if answers(c) {
		return errors.New("it speaks to a server with another authority's certificate")
	}
	return nil
}

// answers is whether anything comes back for a byte.
func answers(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(answerTime))
	if _, err := c.Write([]byte{askEcho, 'x'}); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 1))
	return n > 0
}
