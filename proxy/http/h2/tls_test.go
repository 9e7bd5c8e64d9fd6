package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// tlsPair is TLS over TCP: the server's end is tlsmux's, as in the proxy; under
// the client's end is raw.
func tlsPair(tb testing.TB) (client net.Conn, server relay.Conn, raw net.Conn) {
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
	tc := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	shaken := make(chan error, 1)
	go func() { shaken <- tc.Handshake() }()
	conn, err := tlsmux.NewServer(cfg, certs.NewStore(certs.Feeds{})).Handshake(context.Background(), far)
	if err != nil {
		tb.Fatal(err)
	}
	if err := <-shaken; err != nil {
		tb.Fatal(err)
	}
	return tc, conn, near
}

func TestBridgeOverTLS(t *testing.T) {
	up, err := net.Dial("tcp", standardServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })))
	if err != nil {
		t.Fatal(err)
	}
	client, down, _ := tlsPair(t)
	cl := NewClient(relay.Plain(up), &pool{}, Options{})
	srv := NewServer(down, &bridge{up: cl}, Options{})
	var ended sync.WaitGroup
	var end *codec.End
	ended.Go(func() { end = srv.Serve(); cl.Close() })
	ended.Go(func() { cl.Run() })
	c := standardClient(t, client)
	for _, size := range []int{0, 1, 100_000, 5 << 20} {
		body := bytes.Repeat([]byte{7}, size)
		resp, err := c.Post("http://x/", "", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, size)
		}
	}
	client.Close()
	ended.Wait()
	if end.By != codec.ByFIN || end.Requests != 4 {
		t.Errorf("got %+v", end)
	}
}

func TestEndByTLSIsToldFromOthers(t *testing.T) {
	_, down, raw := tlsPair(t)
	srv := NewServer(down, newRecording(nil), Options{})
	raw.Write([]byte("this is no record of TLS"))
	if end := srv.Serve(); end.By != codec.ByTLS || end.Err == nil {
		t.Errorf("got %s, %v", end.By, end.Err)
	}
	_, down, raw = tlsPair(t)
	srv = NewServer(down, newRecording(nil), Options{})
	raw.Write([]byte{23, 3, 3, 0, 100, 1})
	raw.Close()
	if end := srv.Serve(); end.By != codec.ByFIN || end.Err == nil {
		t.Errorf("a FIN within a record: got %s, %v", end.By, end.Err)
	}
}
