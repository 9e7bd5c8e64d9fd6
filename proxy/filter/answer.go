package filter

import (
	"context"
	"io"
	"time"

	"outrider/proxy/flow"
	"outrider/proxy/relay"
)

// directResponse sends a fixed answer and closes.
type directResponse struct {
	name string
	body []byte
}

// lingerTime is how long an answered client may take to close: a socket that
// is closed with bytes unread resets the connection, and the answer may be
// lost with it.
const lingerTime = time.Second

// Begin counts nothing.
func (*directResponse) Begin(*Conn) func() { return func() {} }

// Serve answers, and waits until the client has read it.
func (d *directResponse) Serve(ctx context.Context, c *Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := c.Write(d.body)
	c.Info.Sent.Add(uint64(n))
	if err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		return flow.End(flow.StageNetworkFilter, 0, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, 1<<20)) // whatever comes, the answer is out
	return nil
}

// Explain is always the same.
func (d *directResponse) Explain(*flow.Info) Verdict {
	return Verdict{Filter: d.name, Type: "direct_response", Reason: "answers itself and closes"}
}

// Close has nothing to end.
func (*directResponse) Close() {}

// echo sends back what it receives.
type echo struct{ name string }

// Begin counts nothing.
func (*echo) Begin(*Conn) func() { return func() {} }

// Serve echoes until the client ends.
func (e *echo) Serve(ctx context.Context, c *Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := e.copy(c); err != nil {
		return flow.End(flow.StageRelay, 0, err)
	}
	return nil
}

func (e *echo) copy(c *Conn) error {
	if c.prologue != nil {
		first, err := c.prologue(c.Conn)
		if err != nil {
			return err
		}
		c.Info.Received.Add(uint64(len(first)))
		if err := echoBack(c, first); err != nil {
			return err
		}
	}
	for {
		more, err := echoOnce(c)
		if err != nil {
			return err
		}
		if !more {
			return c.CloseWrite()
		}
	}
}

// echoOnce holds a buffer only while there is something to echo.
func echoOnce(c *Conn) (more bool, err error) {
	if err := c.WaitReadable(); err != nil {
		return false, err
	}
	buf := make([]byte, 16<<10)
	n, err := c.Read(buf)
	c.Info.Received.Add(uint64(n))
	if werr := echoBack(c, buf[:n]); werr != nil {
		return false, werr
	}
	if err == io.EOF {
		return false, nil
	}
	return true, err
}

func echoBack(c *Conn, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := c.Write(b)
	c.Info.Sent.Add(uint64(n))
	return err
}

// Explain is always the same.
func (e *echo) Explain(*flow.Info) Verdict {
	return Verdict{Filter: e.name, Type: "echo", Reason: "echoes"}
}

// Close has nothing to end.
func (*echo) Close() {}

var _ relay.Conn = (*Conn)(nil)
