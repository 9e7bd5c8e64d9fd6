package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// answerBytes is the size of an answer's body.
const answerBytes = 1024

// httpBackend answers every request with a body of answerBytes, as cheaply as
// can be: HTTP/1.1, or HTTP/2 by prior knowledge.
type httpBackend struct {
	ln      net.Listener
	serving sync.WaitGroup
	mu      sync.Mutex
	open    map[net.Conn]struct{} // guarded by mu; nil when closed
}

func newHTTPBackend(two bool) (*httpBackend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &httpBackend{ln: ln, open: map[net.Conn]struct{}{}}
	serve := serveHTTP1
	if two {
		serve = serveHTTP2
	}
	b.serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			if b.open == nil {
				c.Close()
			} else {
				b.open[c] = struct{}{}
				b.serving.Go(func() {
					_ = serve(c) // ends with the proxy's connection
					c.Close()
					b.mu.Lock()
					delete(b.open, c)
					b.mu.Unlock()
				})
			}
			b.mu.Unlock()
		}
	})
	return b, nil
}

func (b *httpBackend) addr() string { return b.ln.Addr().String() }

func (b *httpBackend) close() {
	b.ln.Close()
	b.mu.Lock()
	for c := range b.open {
		c.Close()
	}
	b.open = nil
	b.mu.Unlock()
	b.serving.Wait()
}

// serveHTTP1 answers requests without bodies.
func serveHTTP1(c net.Conn) error {
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n%s",
		answerBytes, bytes.Repeat([]byte{'x'}, answerBytes))
	in := bufio.NewReader(c)
	for {
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// serveHTTP2 answers requests without bodies.
func serveHTTP2(c net.Conn) error {
	in, out := bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 16<<10)
	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return err
	}
	s := &http2Answers{framer: http2.NewFramer(out, in), window: 65535, head: fields(
		":status", "200", "content-type", "application/octet-stream", "content-length", fmt.Sprint(answerBytes))}
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := s.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000}); err != nil {
		return err
	}
	for {
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		f, err := s.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := s.take(f); err != nil {
			return err
		}
	}
}

// http2Answers is the server's side of an HTTP/2 connection.
type http2Answers struct {
	framer *http2.Framer
	window int      // bytes that the proxy takes on the connection
	due    []uint32 // streams that wait for it
	head   []byte
	body   [answerBytes]byte
}

func (s *http2Answers) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if f.StreamEnded() {
			s.due = append(s.due, f.StreamID)
		}
	case *http2.DataFrame:
		if f.StreamEnded() {
			s.due = append(s.due, f.StreamID)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			s.window += int(f.Increment)
		}
	default:
		return control(s.framer, f)
	}
	for len(s.due) > 0 && s.window >= answerBytes {
		id := s.due[0]
		s.due, s.window = s.due[1:], s.window-answerBytes
		if err := s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.head, EndHeaders: true}); err != nil {
			return err
		}
		if err := s.framer.WriteData(id, true, s.body[:]); err != nil {
			return err
		}
	}
	return nil
}

// control answers what HTTP/2 wants answered beside requests.
func control(framer *http2.Framer, f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("GOAWAY: %s", f.ErrCode)
	case *http2.RSTStreamFrame:
		return fmt.Errorf("stream %d reset: %s", f.StreamID, f.ErrCode)
	}
	return nil
}

// fields are header fields as a block that does not depend on those before it.
func fields(pairs ...string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // a buffer takes all
	}
	return block.Bytes()
}

// readHTTP1 reads one answer.
func readHTTP1(in *bufio.Reader) error {
	r := textproto.NewReader(in)
	status, err := r.ReadLine()
	if err != nil {
		return err
	}
	if len(status) < 12 || status[9:12] != "200" {
		return fmt.Errorf("answered %q", status)
	}
	head, err := r.ReadMIMEHeader()
	if err != nil {
		return err
	}
	if n := head.Get("Content-Length"); n != fmt.Sprint(answerBytes) {
		return fmt.Errorf("an answer of %q bytes", n)
	}
	_, err = in.Discard(answerBytes)
	return err
}
