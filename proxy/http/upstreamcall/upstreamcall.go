// Package upstreamcall makes requests of the proxy's own to clusters: what
// filters ask of authorization and key servers (filter.Upstream). Hosts are
// chosen, connections made and TLS spoken as the clusters say.
package upstreamcall

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
)

const (
	// idleTimeout ends connections that nobody uses. Servers often keep them a
	// minute; ours end first, so that no request meets one that is closed.
	idleTimeout = 50 * time.Second
	// maxHead bounds the head of an answer (Envoy: max_request_headers_kb).
	maxHead = 60 << 10
	// pingInterval finds a dead connection of gRPC while calls wait on it. It is
	// not below what servers allow (keepalive.EnforcementPolicy: 5 minutes).
	pingInterval = 5*time.Minute + 10*time.Second
	pingTimeout  = 20 * time.Second
	// maxReconnect is between tries to connect to a gRPC server.
	maxReconnect = 5 * time.Second
)

// Clusters finds clusters by name; nil if there is none of that name.
type Clusters interface {
	Get(name string) *cluster.Cluster
}

// Calls is a filter.Upstream. It is safe for concurrent use.
type Calls struct {
	clusters     Clusters
	http1, http2 *http.Transport

	mu       sync.Mutex // guards what follows
	channels map[channelKey]*grpc.ClientConn
	closed   bool
}

// channelKey is of equal services.
type channelKey struct{ cluster, authority string }

// New makes no connections yet.
func New(clusters Clusters) *Calls {
	c := &Calls{clusters: clusters, channels: map[channelKey]*grpc.ClientConn{}}
	c.http1, c.http2 = c.transport(), c.transport()
	c.http1.Protocols, c.http2.Protocols = &http.Protocols{}, &http.Protocols{}
	c.http1.Protocols.SetHTTP1(true)
	c.http2.Protocols.SetUnencryptedHTTP2(true)
	return c
}

// transport dials clusters: the host of its URLs is a cluster's name, in hex.
// TLS, if there is any, is the cluster's.
func (c *Calls) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			name, err := clusterOf(addr)
			if err != nil {
				return nil, err
			}
			return c.dial(ctx, name)
		},
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("TLS is the cluster's")
		},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:     true,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHead,
		MaxIdleConnsPerHost:    100,
	}
}

// clusterOf is the name in the address of a dial.
func clusterOf(addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	name, err := hex.DecodeString(strings.TrimPrefix(host, "c"))
	if err != nil {
		return "", fmt.Errorf("%q is no cluster: %w", addr, err)
	}
	return string(name), nil
}

func (c *Calls) dial(ctx context.Context, name string) (net.Conn, error) {
	found := c.clusters.Get(name)
	if found == nil {
		return nil, fmt.Errorf("there is no cluster %q", name)
	}
	return found.Connect(ctx, cluster.Request{})
}

// HTTP sends requests to the cluster of that name, whatever host their URL
// names: that is only the :authority, unless Request.Host says another.
// Redirects are not followed.
func (c *Calls) HTTP(name string) http.RoundTripper { return roundTripper{c, name} }

type roundTripper struct {
	calls   *Calls
	cluster string
}

// RoundTrip speaks HTTP/2 where the cluster says so, else HTTP/1.1.
func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	found := r.calls.clusters.Get(r.cluster)
	if found == nil {
		closeBody(req)
		return nil, fmt.Errorf("there is no cluster %q", r.cluster)
	}
	out := req.Clone(req.Context())
	if out.Host == "" {
		out.Host = req.URL.Host
	}
	to := *req.URL
	to.Scheme, to.Host = "http", hostOf(r.cluster)
	out.URL = &to
	via := r.calls.http1
	if found.Config().HTTP2 {
		via = r.calls.http2
	}
	resp, err := via.RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", r.cluster, err)
	}
	resp.Request = req
	return resp, nil
}

// hostOf is a host that stands for a cluster, whose name may have any
// characters. Its port is never used.
func hostOf(name string) string { return "c" + hex.EncodeToString([]byte(name)) + ":80" }

// closeBody is what a RoundTripper owes in any case.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// GRPC is a channel to a cluster. Equal services share one, which lives until
// Close. It connects when it is used.
func (c *Calls) GRPC(s *config.GRPCService) (grpc.ClientConnInterface, error) {
	if s.Cluster == "" {
		return nil, fmt.Errorf("gRPC service %q is in no cluster, which is not supported", s.Target)
	}
	key := channelKey{s.Cluster, s.Authority}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the proxy ends")
	}
	if conn := c.channels[key]; conn != nil {
		return conn, nil
	}
	authority := s.Authority
	if authority == "" {
		authority = s.Cluster // as Envoy
	}
	conn, err := grpc.NewClient("passthrough:///"+url.PathEscape(s.Cluster),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx, s.Cluster) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is the cluster's
		grpc.WithAuthority(authority),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect()}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithIdleTimeout(0), // it may be needed at any request
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("gRPC service in cluster %q: %w", s.Cluster, err)
	}
	c.channels[key] = conn
	return conn, nil
}

// reconnect is soon at first, and never long: requests wait for it.
func reconnect() backoff.Config {
	out := backoff.DefaultConfig
	out.BaseDelay, out.MaxDelay = 100*time.Millisecond, maxReconnect
	return out
}

// Close ends all channels, and connections that are idle; requests of HTTP that
// are under way go on. Nothing can be called after.
func (c *Calls) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, conn := range c.channels {
		errs = append(errs, conn.Close())
	}
	clear(c.channels)
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
	return errors.Join(errs...)
}
