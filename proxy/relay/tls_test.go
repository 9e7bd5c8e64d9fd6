package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/tlsmux"
)

// tlsEnds makes both ends of TLS over TCP: ours, of tlsmux, and the other's, of
// crypto/tls alone.
type tlsEnds struct {
	server *tlsmux.Server
	client *tls.Config
}

func newTLS(tb testing.TB) *tlsEnds {
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
	return &tlsEnds{
		server: tlsmux.NewServer(cfg, certs.NewStore(certs.Feeds{})),
		client: &tls.Config{RootCAs: roots, ServerName: "localhost", DynamicRecordSizingDisabled: true},
	}
}

// accept is a TLS connection: ours, as a side of a relay, and the client's end,
// with the socket beneath it.
func (e *tlsEnds) accept(tb testing.TB) (ours Conn, client *tls.Conn, socket *net.TCPConn) {
	tb.Helper()
	near, far := pair(tb)
	client = tls.Client(near, e.client)
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	conn, err := e.server.Handshake(context.Background(), far)
	if err != nil {
		tb.Fatal(err)
	}
	if err := <-shaken; err != nil {
		tb.Fatal(err)
	}
	return conn, client, near
}

func TestBytesGoThroughFromAndToTLS(t *testing.T) {
	ends := newTLS(t)
	for _, size := range []int{0, 1, 20_000, bufferSize, 3 << 20} {
		down, client, _ := ends.accept(t)
		up, server := pair(t)
		result := make(chan Result, 1)
		go func() { result <- Run(t.Context(), down, Plain(up), Options{}) }()
		sent, back := random(size, 1), random(size, 2)
		go func() { client.Write(sent); client.CloseWrite() }()
		go send(server, back, 3)
		gotUp, errUp := io.ReadAll(server)
		gotDown, errDown := io.ReadAll(client)
		if errUp != nil || errDown != nil || !bytes.Equal(gotUp, sent) || !bytes.Equal(gotDown, back) {
			t.Fatalf("up %d bytes %v, down %d bytes %v, want %d", len(gotUp), errUp, len(gotDown), errDown, size)
		}
		client.Close()
		if r := <-result; r.Cause != Finished {
			t.Errorf("result %+v, want finished", r)
		}
	}
}

func TestWhatAPrologueLeavesDecryptedIsPassedOn(t *testing.T) {
	down, client, _ := newTLS(t).accept(t)
	up, server := pair(t)
	client.Write([]byte("helloworld")) // one record; the prologue reads half of it
	result := make(chan Result, 1)
	go func() {
		result <- Run(t.Context(), down, Plain(up), Options{DownstreamFirst: func(c Conn) ([]byte, error) {
			_, err := io.ReadFull(c, make([]byte, 5))
			return nil, err
		}})
	}()
	got := make([]byte, 5)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "world" {
		t.Errorf("got %q %v, want world", got, err)
	}
	client.Close()
	server.Close()
	<-result
}

// A peer that stops within a record, or ends without a close_notify, must
// neither hold a relay nor keep it busy.
func TestATruncatedRecordWaitsAndThenEnds(t *testing.T) {
	ends := newTLS(t)
	for name, piece := range map[string]string{
		"nothing": "", "part of a header": "\x17\x03\x03", "part of a record": "\x17\x03\x03\x00\x40abc",
	} {
		t.Run(name, func(t *testing.T) {
			down, client, socket := ends.accept(t)
			up, server := pair(t)
			result := make(chan Result, 1)
			go func() { result <- Run(t.Context(), down, Plain(up), Options{}) }()
			client.Write([]byte("x"))
			io.ReadFull(server, make([]byte, 1))
			io.WriteString(socket, piece)
			if spent := cpuOver(100 * time.Millisecond); spent > 50*time.Millisecond {
				t.Errorf("waiting took %s of CPU in 100ms", spent)
			}
			socket.CloseWrite()
			server.Close()
			r := <-result
			if want := Finished; piece == "" && r.Cause != want {
				t.Errorf("result %+v, want finished", r)
			}
			if want := DownstreamReset; piece != "" && r.Cause != want {
				t.Errorf("result %+v, want downstream reset", r)
			}
		})
	}
}

// cpuOver is how much CPU the process takes in that time.
func cpuOver(d time.Duration) time.Duration {
	used := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	<-time.After(d)
	return used() - before
}

func TestMovingRecordsAllocatesNoMoreThanCryptoTLSAlone(t *testing.T) {
	ends := newTLS(t)
	ours, client, _ := ends.accept(t)
	alone := allocsPerRound(client, ours)

	down, client, _ := ends.accept(t)
	up, server := pair(t)
	result := make(chan Result, 1)
	go func() { result <- Run(t.Context(), down, Plain(up), Options{IdleTimeout: time.Hour}) }()
	if got := allocsPerRound(client, server); got > alone+poolAllocs+0.5 {
		t.Errorf("%v allocations a round, %v without a relay", got, alone)
	}
	client.Close()
	server.Close()
	<-result
}

func allocsPerRound(client, server net.Conn) float64 {
	msg, got := random(1024, 1), make([]byte, 1024)
	return testing.AllocsPerRun(500, func() {
		client.Write(msg)
		io.ReadFull(server, got)
		server.Write(msg)
		io.ReadFull(client, got)
	})
}
