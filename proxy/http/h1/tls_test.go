package h1

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/http/codec"
	"outrider/tlsmux"
)

// tlsPair is a TLS connection: ours, and the peer's, which is crypto/tls's
// client.
func tlsPair(tb testing.TB) (ours *tlsmux.Conn, peer *tls.Conn, socket *net.TCPConn) {
	tb.Helper()
	root, err := ca.New("root")
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := root.Issue(ca.Leaf{DNS: []string{"localhost"}})
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(leaf.ChainPEM, leaf.KeyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := &tlsmux.ServerConfig{}
	cfg.Certificates = []certs.Ref{{Inline: &certs.Secret{Version: "1", KeyPair: pair}}}
	roots := x509.NewCertPool()
	roots.AddCert(root.Cert)
	near, far := tcpPair(tb)
	peer = tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	shaken := make(chan error, 1)
	go func() { shaken <- peer.Handshake() }()
	ours, err = tlsmux.NewServer(cfg, certs.NewStore(certs.Feeds{})).Handshake(context.Background(), far)
	if err != nil {
		tb.Fatal(err)
	}
	if err := <-shaken; err != nil {
		tb.Fatal(err)
	}
	_ = near.SetDeadline(time.Now().Add(patience))
	return ours, peer, near
}

func TestServerOverTLS(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(codec.Server, *tls.Conn, *net.TCPConn)
		by   codec.Closer
	}{
		{"close_notify", func(_ codec.Server, p *tls.Conn, _ *net.TCPConn) { p.Close() }, codec.ByFIN},
		{"FIN", func(_ codec.Server, _ *tls.Conn, s *net.TCPConn) { s.CloseWrite() }, codec.ByFIN},
		{"RST", func(_ codec.Server, _ *tls.Conn, s *net.TCPConn) { s.SetLinger(0); s.Close() }, codec.ByRST},
		{"bytes that are no TLS", func(_ codec.Server, _ *tls.Conn, s *net.TCPConn) { io.WriteString(s, get+"\r\n") }, codec.ByTLS},
		{"Close of ours", func(v codec.Server, _ *tls.Conn, _ *net.TCPConn) { v.Close() }, codec.ByUs},
		{"a final drain", func(v codec.Server, _ *tls.Conn, _ *net.TCPConn) { v.Drain(true) }, codec.ByUs},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, peer, socket := tlsPair(t)
			srv := NewServer(ours, &mirror{}, Options{EnableTrailers: true})
			end := make(chan *codec.End, 1)
			go func() { end <- srv.Serve() }()
			br := bufio.NewReader(peer)
			for _, size := range []int{0, 1, 20_000, 1 << 20} {
				body := strings.Repeat("x", size)
				go func() {
					io.WriteString(peer, chnk)
					w := bufio.NewWriter(peer)
					for rest := body; rest != ""; rest = rest[min(len(rest), 3000):] {
						piece := rest[:min(len(rest), 3000)]
						w.WriteString(hexText(len(piece)) + "\r\n" + piece + "\r\n")
					}
					w.WriteString("0\r\n\r\n")
					w.Flush()
				}()
				r, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r.Body); err != nil || string(got) != body {
					t.Fatalf("%d bytes came back, want %d: %v", len(got), size, err)
				}
			}
			c.end(srv, peer, socket)
			_, _ = io.Copy(io.Discard, br) // and what it has to say to that
			peer.Close()
			if e := <-end; e.By != c.by || e.Requests != 4 || e.BytesRead < 1<<20 {
				t.Errorf("ended %+v, want by %s", e, c.by)
			}
		})
	}
}

func hexText(n int) string {
	const digits = "0123456789abcdef"
	if n < 16 {
		return digits[n : n+1]
	}
	return hexText(n/16) + digits[n%16:n%16+1]
}
