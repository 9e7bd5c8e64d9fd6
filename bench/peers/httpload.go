package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// firstAnswers is how many answers to each stream come before the warm-up:
// some proxies begin with a connection, and its handshake, for each stream.
const firstAnswers = 10

// requests makes requests over conns connections, streams at a time on each.
func requests(conns, streams int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		var answered atomic.Int64
		var load crew
		for range conns {
			c, err := b.dial(ctx)
			if err != nil {
				_ = load.end()
				return nil, err
			}
			load.add(func() error {
				if b.scene.http == "h2" {
					return askHTTP2(c, streams, &answered)
				}
				return askHTTP1(c, &answered)
			}, func() { c.Close() })
		}
		w, err := load.measured(ctx, b, &answered, int64(conns*streams*firstAnswers))
		if err != nil {
			return nil, err
		}
		return w.busy(values{
			"per_cpu_s": float64(w.count) / w.proxy.Seconds(),
			"per_s":     float64(w.count) / w.elapsed.Seconds(),
		}), nil
	}
}

const (
	requestPath  = "/api/v1/items?id=42"
	requestAgent = "bench/1.0"
)

func http1Request() []byte {
	return []byte("GET " + requestPath + " HTTP/1.1\r\nhost: " + serverName + "\r\nuser-agent: " + requestAgent + "\r\naccept: */*\r\n\r\n")
}

// askHTTP1 makes one request after the other.
func askHTTP1(c net.Conn, answered *atomic.Int64) error {
	in := bufio.NewReader(c)
	request := http1Request()
	for {
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := readHTTP1(in); err != nil {
			return err
		}
		answered.Add(1)
	}
}

// askHTTP2 makes a request on a new stream for each that is answered.
func askHTTP2(c net.Conn, streams int, answered *atomic.Int64) error {
	in, out := bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 16<<10)
	if _, err := out.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	a := &http2Asks{framer: http2.NewFramer(out, in), next: 1, answered: answered, head: fields(
		":method", "GET", ":scheme", "http", ":authority", serverName, ":path", requestPath,
		"user-agent", requestAgent, "accept", "*/*")}
	a.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := a.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}); err != nil {
		return err
	}
	for range streams {
		if err := a.ask(); err != nil {
			return err
		}
	}
	for {
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		f, err := a.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := a.take(f); err != nil {
			return err
		}
	}
}

// http2Asks is the client's side of an HTTP/2 connection.
type http2Asks struct {
	framer   *http2.Framer
	next     uint32 // stream
	taken    uint32 // bytes of answers since the last WINDOW_UPDATE
	head     []byte
	answered *atomic.Int64
}

func (a *http2Asks) ask() error {
	id := a.next
	a.next += 2
	return a.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.head, EndStream: true, EndHeaders: true})
}

func (a *http2Asks) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "200" {
			return fmt.Errorf("answered with status %q", status)
		}
		if f.StreamEnded() {
			return fmt.Errorf("an answer without a body")
		}
		return nil
	case *http2.DataFrame:
		if a.taken += f.Length; a.taken >= 32<<10 {
			if err := a.framer.WriteWindowUpdate(0, a.taken); err != nil {
				return err
			}
			a.taken = 0
		}
		if !f.StreamEnded() {
			return nil
		}
		a.answered.Add(1)
		return a.ask()
	}
	return control(a.framer, f)
}
