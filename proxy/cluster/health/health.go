// Package health asks one host whether it is well: the three protocols of
// Envoy's active health checks over a connection that the caller dials. What
// an answer means for the host, after thresholds, is the caller's.
package health

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"outrider/proxy/config"
)

// Kind is Envoy's HealthCheckFailureType.
type Kind string

// Active is an answer that says unhealthy, Network no answer, Timeout none in
// time.
const (
	Active  Kind = "ACTIVE"
	Network Kind = "NETWORK"
	Timeout Kind = "NETWORK_TIMEOUT"
)

// Result is one check. The zero value is a success.
type Result struct {
	Kind Kind // "": success
	Err  error
	// Degraded says that the host takes connections as a last resort.
	Degraded bool
	// Retriable says that one such answer alone does not make unhealthy.
	Retriable bool
	// Exclude says that the host asks not to be counted at all.
	Exclude bool
	// VerifiedCluster says that the service name was compared.
	VerifiedCluster bool
	Status          int // HTTP status, 0 if none
}

// Dial opens a connection to the host, with its transport socket.
type Dial func(ctx context.Context) (net.Conn, error)

// Probe checks one host again and again. It is not for concurrent use.
type Probe interface {
	// Check asks once; ctx's deadline is the check's timeout.
	Check(ctx context.Context, dial Dial) Result
	// Close closes the connection that Check may have kept.
	Close()
}

// Target is what a probe tells the host about itself.
type Target struct {
	Cluster string
	// Hostname is the endpoint's health_check_config.hostname, "" if none.
	Hostname string
	// Reuse keeps the connection for the next check.
	Reuse bool
}

// New makes the probe that cfg asks for.
func New(cfg *config.HealthCheck, target Target) Probe {
	target.Reuse = target.Reuse && cfg.ReuseConnection
	switch {
	case cfg.HTTP != nil && cfg.HTTP.HTTP2:
		return &http2Probe{cfg: cfg.HTTP, target: target}
	case cfg.HTTP != nil:
		return &httpProbe{cfg: cfg.HTTP, target: target}
	case cfg.GRPC != nil:
		return &grpcProbe{cfg: cfg.GRPC, target: target}
	case cfg.TCP != nil:
		return &tcpProbe{cfg: cfg.TCP, target: target}
	default:
		return &tcpProbe{cfg: &config.TCPHealthCheck{}, target: target}
	}
}

// TypeName is Envoy's HealthCheckerType of cfg.
func TypeName(cfg *config.HealthCheck) string {
	switch {
	case cfg.HTTP != nil:
		return "HTTP"
	case cfg.GRPC != nil:
		return "GRPC"
	default:
		return "TCP"
	}
}

// maxAnswer is how many bytes of an answer are looked at: a host must not be
// able to make us hold more.
const maxAnswer = 64 << 10

// failed is a check that got no answer.
func failed(ctx context.Context, err error) Result {
	var timeout net.Error
	if ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return Result{Kind: Timeout, Err: err}
	}
	return Result{Kind: Network, Err: err}
}

// watch makes reads and writes of c end when ctx does; the function that it
// answers ends the watch, and is false if ctx was first.
func watch(ctx context.Context, c net.Conn) func() bool {
	_ = c.SetDeadline(time.Time{})
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

type tcpProbe struct {
	cfg    *config.TCPHealthCheck
	target Target
	conn   net.Conn // kept; nil if none
}

func (p *tcpProbe) Close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *tcpProbe) Check(ctx context.Context, dial Dial) Result {
	if p.conn == nil {
		conn, err := dial(ctx)
		if err != nil {
			return failed(ctx, err)
		}
		p.conn = conn
	}
	unwatched := watch(ctx, p.conn)
	err := p.exchange()
	if !unwatched() || err != nil || !p.target.Reuse || len(p.cfg.Receive) == 0 {
		p.Close()
	}
	if err != nil {
		return failed(ctx, err)
	}
	return Result{}
}

func (p *tcpProbe) exchange() error {
	if len(p.cfg.Send) > 0 {
		if _, err := p.conn.Write(p.cfg.Send); err != nil {
			return err
		}
	}
	if len(p.cfg.Receive) == 0 {
		return nil
	}
	var got []byte
	buf := make([]byte, 4096)
	for len(got) < maxAnswer {
		n, err := p.conn.Read(buf)
		got = append(got, buf[:n]...)
		if inOrder(got, p.cfg.Receive) {
			return nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return errors.New("the answer does not have the expected bytes in its first 64 KiB")
}

// inOrder reports whether all blocks are in b, one after the other, with
// anything between them.
func inOrder(b []byte, blocks [][]byte) bool {
	for _, block := range blocks {
		at := bytes.Index(b, block)
		if at < 0 {
			return false
		}
		b = b[at+len(block):]
	}
	return true
}
