package csr

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func pin(c *x509.Certificate) [][sha256.Size]byte {
	return [][sha256.Size]byte{sha256.Sum256(c.RawSubjectPublicKeyInfo)}
}

func TestAuthorityIsBelievedByWhatIsGivenAndNothingElse(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	stranger := newRoot(t, "stranger")
	file, strange := writeFile(t, "", pemOf(a.root.cert)), writeFile(t, "", pemOf(stranger.cert))
	others := func() []*x509.Certificate { return certsOf(stranger) }
	for _, c := range []struct {
		name  string
		trust Trust
		text  string // of the error; "" if it is believed
	}{
		{"root file", Trust{RootFile: file}, ""},
		{"bundle", Trust{Bundle: a.bundle}, ""},
		{"pinned root, sent by the authority", Trust{Pins: pin(a.root.cert)}, ""},
		{"pinned leaf", Trust{Pins: pin(a.cert.Leaf)}, ""},
		{"one of two pins", Trust{Pins: append(pin(stranger.cert), pin(a.cert.Leaf)...)}, ""},
		{"bundle beside another's file", Trust{RootFile: strange, Bundle: a.bundle}, ""},
		{"root file with the system's roots and an empty bundle", Trust{RootFile: file, System: true, Bundle: func() []*x509.Certificate { return nil }}, ""},
		{"root file narrowed by a pin", Trust{RootFile: file, Pins: pin(a.root.cert)}, ""},
		{"another's root file", Trust{RootFile: strange}, "we trust " + strange + " (1 root)"},
		{"another's bundle", Trust{Bundle: others}, "we trust the bundle (1 root)"},
		{"another's pin", Trust{Pins: pin(stranger.cert)}, "we trust the pinned keys (1 key)"},
		{"the system's roots", Trust{System: true}, "we trust the system's roots"},
		{"right root, another's pin", Trust{RootFile: file, Pins: pin(stranger.cert)}, "no key of its chain is pinned"},
		{"right pin, another's root", Trust{RootFile: strange, Pins: pin(a.root.cert)}, "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.client(func(o *Options) { o.Trust = c.trust }).Issue(t.Context())
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed(t, err, StageConnect, Authority, codes.Unavailable)
			var wrong *AuthorityError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.text) || wrong.Presented == nil {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

func TestServerNameMustBeInTheCertificate(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	for _, c := range []struct{ name, text string }{
		{"", ""}, {"istiod.istio-system.svc", ""}, {"other.example", `the authority is not "other.example"`},
	} {
		_, err := a.client(func(o *Options) { o.ServerName = c.name }).Issue(t.Context())
		var host x509.HostnameError
		switch {
		case c.text == "" && err != nil:
			t.Errorf("%q: %v", c.name, err)
		case c.text != "" && (!errors.As(err, &host) || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%q: got %v, want %q", c.name, err, c.text)
		}
	}
}

func TestPinDoesNotLiftTheName(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	_, err := a.client(func(o *Options) { o.Trust, o.ServerName = Trust{Pins: pin(a.cert.Leaf)}, "other.example" }).Issue(t.Context())
	var host x509.HostnameError
	if !errors.As(err, &host) {
		t.Errorf("got %v, want that the name does not fit", err)
	}
}

func TestRootFileIsReadForEachRequest(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	path := filepath.Join(t.TempDir(), "root.pem")
	c := a.client(func(o *Options) { o.Trust = Trust{RootFile: path} })
	issue := func() error { _, err := c.Issue(t.Context()); return err }

	failed(t, issue(), StagePrepare, Ours, codes.FailedPrecondition)
	writeFile(t, path, pemOf(newRoot(t, "old").cert))
	failed(t, issue(), StageConnect, Authority, codes.Unavailable)
	writeFile(t, path, pemOf(a.root.cert))
	if err := issue(); err != nil {
		t.Errorf("with the right root: %v", err)
	}
	writeFile(t, path, "nothing")
	if e := failed(t, issue(), StagePrepare, Ours, codes.FailedPrecondition); !strings.Contains(e.Error(), path) {
		t.Errorf("got %v, want the file's name", e)
	}
	// The authority's own root changes, and ours after it.
	a.mu.Lock()
	a.root = newRoot(t, "new")
	a.cert = a.root.server(t, "127.0.0.1")
	a.mu.Unlock()
	writeFile(t, path, pemOf(a.root.cert))
	if err := issue(); err != nil {
		t.Errorf("after a change of the root: %v", err)
	}
}

func TestEmptyBundleTrustsNobody(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	_, err := a.client(func(o *Options) { o.Trust.Bundle = func() []*x509.Certificate { return nil } }).Issue(t.Context())
	e := failed(t, err, StagePrepare, Ours, codes.FailedPrecondition)
	if !strings.Contains(e.Error(), "there is no root") {
		t.Errorf("got %v", e)
	}
}

func TestExpiredAuthorityIsNamedWithOurClock(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	key := newKey(t)
	old := a.root.leaf(t, key.Public(), "", func(c *x509.Certificate) {
		c.DNSNames, c.NotBefore, c.NotAfter = []string{"ca"}, c.NotBefore.AddDate(-1, 0, 0), c.NotBefore
	})
	a.mu.Lock()
	a.cert = tls.Certificate{Certificate: [][]byte{old.Raw}, PrivateKey: key}
	a.mu.Unlock()
	_, err := a.client(func(o *Options) { o.ServerName = "ca" }).Issue(t.Context())
	var wrong *AuthorityError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "to "+stamp(old.NotAfter)) || !strings.Contains(err.Error(), "our clock says") {
		t.Errorf("got %v", err)
	}
}

func TestConnectionThatCannotBeMadeIsTheNetworks(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	lost := errors.New("no healthy endpoint")
	for _, c := range []struct {
		name, address string
		dial          func(context.Context, string) (net.Conn, error)
	}{
		{"nobody listens", "127.0.0.1:1", nil},
		{"no such socket", "unix:" + filepath.Join(t.TempDir(), "s"), nil},
		{"a dialer of ours", "istiod:15012", func(context.Context, string) (net.Conn, error) { return nil, lost }},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.client(func(o *Options) {
				o.Address, o.ServerName, o.Dial = c.address, "istiod.istio-system.svc", c.dial
			}).Issue(t.Context())
			e := failed(t, err, StageConnect, Network, codes.Unavailable)
			if e.Proof != "" || !strings.Contains(e.Error(), c.address) || c.dial != nil && !errors.Is(err, lost) {
				t.Errorf("got %v", e)
			}
		})
	}
}

func TestDialerOfOursIsUsedForTheAddress(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	var asked string
	_, err := a.client(func(o *Options) {
		o.Address = "istiod.istio-system.svc:15012"
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			asked = address
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.address)
		}
	}).Issue(t.Context())
	if err != nil || asked != "istiod.istio-system.svc:15012" || a.last().name != "istiod.istio-system.svc" {
		t.Errorf("asked for %q with SNI %q: %v", asked, a.last().name, err)
	}
}

// hangUp closes each connection at once.
func hangUp(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	l := must[net.Listener](t)(config.Listen(t.Context(), "tcp", "127.0.0.1:0"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestConnectionThatBreaksIsTheNetworks(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	_, err := a.client(func(o *Options) { o.Address = hangUp(t) }).Issue(t.Context())
	failed(t, err, StageConnect, Network, codes.Unavailable)
	plain := must[*Client](t)(New(Options{Address: hangUp(t), Plaintext: true}))
	_, err = plain.Issue(t.Context())
	failed(t, err, StageConnect, Network, codes.Unavailable)
}

func TestAuthorityThatDoesNotShakeHandsRunsIntoTheTimeout(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	_, err := a.client(func(o *Options) {
		o.Timeout = 100 * time.Millisecond
		o.Dial = func(context.Context, string) (net.Conn, error) { return ours, nil }
	}).Issue(t.Context())
	failed(t, err, StageConnect, Network, codes.DeadlineExceeded)
}

func TestPlaintextAuthorityIsNotTakenForTLS(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	plain := a.serve(nil, "tcp", "127.0.0.1:0")
	_, err := a.client(func(o *Options) { o.Address = plain }).Issue(t.Context())
	failed(t, err, StageConnect, Authority, codes.Unavailable)
	if a.count() != 0 {
		t.Error("the authority got a request")
	}
}

func TestPlaintextReachesLoopbackAndUnixSockets(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	token := writeFile(t, "", "jwt")
	for _, address := range []string{
		a.serve(nil, "tcp", "127.0.0.1:0"),
		"unix:" + a.serve(nil, "unix", filepath.Join(t.TempDir(), "s")),
	} {
		c := must[*Client](t)(New(Options{Address: address, Plaintext: true, TokenPath: token}))
		if _, err := c.Issue(t.Context()); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if got := a.last().md.Get("authorization"); len(got) != 1 {
			t.Errorf("%s: the token did not come: %v", address, got)
		}
	}
}

// cutConn is a connection that breaks at its next read after cut.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() {
		return 0, syscall.ECONNRESET
	}
	return n, err
}

func TestRequestOnAConnectionThatBreaksSaysWhatBroke(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	var cut atomic.Bool
	a.answers(func(*x509.CertificateRequest) ([]string, error) {
		cut.Store(true)
		return nil, nil
	})
	_, err := a.client(func(o *Options) {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", address)
			return cutConn{conn, &cut}, err
		}
	}).Issue(t.Context())
	failed(t, err, StageRequest, Network, codes.Unavailable)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestNameThatOnlySoundsLocalGetsNoPlaintext(t *testing.T) {
	for _, c := range []struct {
		to net.Addr
		ok bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}, true}, {&net.TCPAddr{IP: net.IPv6loopback}, true},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, false}, {&net.UDPAddr{IP: net.IPv6loopback}, false},
	} {
		err := mustBeLoopback(c.to)
		if (err == nil) != c.ok || err != nil && faultOfConnection(err) != Ours {
			t.Errorf("%s: got %v", c.to, err)
		}
	}
}

// dyingConn cannot be written any more, and has last words to read.
type dyingConn struct {
	net.Conn
	words error
}

func (c dyingConn) Write([]byte) (int, error)       { return 0, syscall.EPIPE }
func (c dyingConn) Read([]byte) (int, error)        { return 0, c.words }
func (c dyingConn) SetReadDeadline(time.Time) error { return nil }

func TestFailedWriteHearsWhyTheOtherSideHungUp(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}
	for _, c := range []struct{ words, want error }{{alert, alert}, {io.EOF, syscall.EPIPE}, {os.ErrDeadlineExceeded, syscall.EPIPE}} {
		var ch channel
		if _, err := (notingConn{dyingConn{words: c.words}, &ch}).Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write: %v", err)
		}
		if got := ch.noted(); !errors.Is(got, c.want) {
			t.Errorf("after %v: got %v, want %v", c.words, got, c.want)
		}
	}
}
