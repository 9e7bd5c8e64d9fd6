package csr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// unixPrefix marks the path of a unix socket (gRPC's name syntax).
const unixPrefix = "unix:"

// channel is the connection of one request. gRPC tells why a connection failed
// only as text; the channel keeps the error itself.
type channel struct {
	*grpc.ClientConn

	mu  sync.Mutex
	err error // guarded by mu; the first that the connection met
}

func newChannel(opts *Options, p *proof, more ...grpc.DialOption) (*channel, error) {
	c := &channel{}
	security := insecure.NewCredentials()
	if !opts.Plaintext {
		anchors, err := opts.Trust.read()
		if err != nil {
			return nil, err
		}
		security = credentials.NewTLS(anchors.config(opts.ServerName, p))
	}
	var err error
	c.ClientConn, err = grpc.NewClient("passthrough:///"+target(opts), append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := dial(ctx, opts)
			return conn, c.note(err)
		}),
		grpc.WithTransportCredentials(noting{security, c}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
	}, more...)...)
	return c, err
}

// target is what gRPC makes the authority of its requests from.
func target(opts *Options) string {
	if strings.HasPrefix(opts.Address, unixPrefix) {
		return "localhost"
	}
	return opts.Address
}

// dial connects. A name that was taken for this machine's must lead there.
func dial(ctx context.Context, opts *Options) (net.Conn, error) {
	if opts.Dial != nil {
		return opts.Dial(ctx, opts.Address)
	}
	var d net.Dialer
	if path, ok := strings.CutPrefix(opts.Address, unixPrefix); ok {
		return d.DialContext(ctx, "unix", path)
	}
	conn, err := d.DialContext(ctx, "tcp", opts.Address)
	if err != nil || !opts.Plaintext || opts.AllowPlaintext {
		return conn, err
	}
	if err := mustBeLoopback(conn.RemoteAddr()); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// errReadable says that a token would go out readable.
var errReadable = errors.New("plaintext is for loopback addresses only")

func mustBeLoopback(to net.Addr) error {
	if tcp, ok := to.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return fmt.Errorf("%s is refused: %w", to, errReadable)
	}
	return nil
}

// note keeps the first error, and returns what it is given.
func (c *channel) note(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	return err
}

func (c *channel) noted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// ready waits until the connection stands, or has failed once.
func (c *channel) ready(ctx context.Context) error {
	for state := c.GetState(); state != connectivity.Ready; state = c.GetState() {
		if err := c.noted(); err != nil {
			return err
		}
		if state == connectivity.TransientFailure || state == connectivity.Shutdown {
			return errors.New("the connection ended before gRPC was spoken on it")
		}
		if state == connectivity.Idle {
			c.Connect()
		}
		if !c.WaitForStateChange(ctx, state) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// explain puts the connection's own error before what gRPC says, if it broke.
func (c *channel) explain(err error) error {
	if broken := c.noted(); broken != nil {
		return &brokenError{broken, err}
	}
	return err
}

// brokenError is a request that ended because the connection broke.
type brokenError struct{ conn, rpc error }

func (e *brokenError) Error() string   { return e.conn.Error() }
func (e *brokenError) Unwrap() []error { return []error{e.conn, e.rpc} }

// noting keeps the errors of handshakes, and of reads after them: a server that
// refuses our certificate says so only after ours is done (TLS 1.3).
type noting struct {
	credentials.TransportCredentials
	channel *channel
}

func (n noting) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := n.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, n.channel.note(&handshakeError{err})
	}
	return notingConn{conn, n.channel}, info, nil
}

// handshakeError is a handshake that came to nothing.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

func (n noting) Clone() credentials.TransportCredentials {
	return noting{n.TransportCredentials.Clone(), n.channel}
}

type notingConn struct {
	net.Conn
	channel *channel
}

func (c notingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.channel.note(err)
	}
	return n, err
}

// Write that fails is what follows when the other side has ended the
// connection: what it said before that is the reason.
func (c notingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.lastWords()
		c.channel.note(err)
	}
	return n, err
}

// lastWordsTime is for reading what has arrived already.
const lastWordsTime = 100 * time.Millisecond

// lastWords reads to the end of a connection that cannot be written any more.
func (c notingConn) lastWords() {
	if c.SetReadDeadline(time.Now().Add(lastWordsTime)) != nil {
		return
	}
	for b := make([]byte, 512); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}
