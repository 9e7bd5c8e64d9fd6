package h2

import (
	"encoding/binary"
	"fmt"

	"outrider/proxy/http/codec"
)

// take deals with a frame.
func (c *conn) take(f frame, p []byte) error {
	c.heard(f)
	if err := c.floods.count(c, f, p); err != nil {
		return err
	}
	if c.block.open && f.kind != frameContinuation {
		return connErrorf(codeProtocol, "a frame of type %d within a header block", f.kind)
	}
	switch f.kind {
	case frameData:
		return c.takeData(f, p)
	case frameHeaders:
		return c.takeHeaders(f, p)
	case framePriority:
		return c.takePriority(f, p)
	case frameReset:
		return c.takeReset(f, p)
	case frameSettings:
		return c.takeSettings(f, p)
	case framePushPromise:
		return connErrorf(codeProtocol, "PUSH_PROMISE")
	case framePing:
		return c.takePing(f, p)
	case frameGoAway:
		return c.takeGoAway(f, p)
	case frameWindowUpdate:
		return c.takeWindowUpdate(f, p)
	case frameContinuation:
		return c.takeContinuation(f, p)
	}
	return nil // RFC 9113, section 5.5: unknown types are ignored
}

// idle reports whether nobody has opened the stream yet; mu is held.
func (c *conn) idle(id uint32) bool {
	if c.server == (id%2 == 1) {
		return id > c.lastPeer
	}
	return id >= c.nextOwn
}

func (c *conn) takeData(f frame, p []byte) error {
	if f.stream == 0 {
		return connErrorf(codeProtocol, "DATA on stream 0")
	}
	data, err := unpad(f, p)
	if err != nil {
		return err
	}
	end := f.has(flagEndStream)
	c.mu.Lock()
	s := c.streams[f.stream]
	if c.recvWindow -= int64(f.length); c.recvWindow < 0 {
		c.mu.Unlock()
		return connErrorf(codeFlowControl, "DATA beyond the connection's window, on stream %d", f.stream)
	}
	if s == nil || s.remoteDone {
		defer c.mu.Unlock()
		return c.lateData(f, s)
	}
	if !s.gotHead {
		c.giveBackConn(f.length)
		c.mu.Unlock()
		return c.malformed(s, detailMessaging, "DATA before the head")
	}
	if s.recvWindow -= int64(f.length); s.recvWindow < 0 {
		c.giveBackConn(f.length)
		c.mu.Unlock()
		c.streamError(s, codeFlowControl, "", "DATA beyond the stream's window")
		return nil
	}
	s.taken += uint64(frameHeaderSize + f.length)
	s.unconsumed += len(data)
	if pad := f.length - len(data); pad > 0 {
		c.giveBack(s, pad)
	}
	good := s.countBody(len(data), end)
	muted := s.muted
	if muted {
		c.giveBackAll(s)
	}
	if good {
		s.remoteDone = end
		c.settle(s)
	}
	c.mu.Unlock()
	if !good {
		c.wrongLength(s)
		return nil
	}
	if !muted && (len(data) > 0 || end) {
		s.r.OnData(data, end)
	}
	return nil
}

// lateData is DATA on a stream that takes none any more; mu is held.
func (c *conn) lateData(f frame, s *stream) error {
	c.giveBackConn(f.length)
	switch {
	case s != nil: // half-closed
		return connErrorf(codeStreamClosed, "DATA after the end of stream %d", f.stream)
	case c.idle(f.stream):
		return connErrorf(codeProtocol, "DATA on idle stream %d", f.stream)
	case f.stream > c.lastTaken && c.server, !c.server, c.ourResets.has(f.stream):
		return nil
	}
	c.queueReset(f.stream, codeStreamClosed)
	return nil
}

func (c *conn) takePriority(f frame, p []byte) error {
	switch {
	case f.stream == 0:
		return connErrorf(codeProtocol, "PRIORITY on stream 0")
	case len(p) != 5:
		return connErrorf(codeFrameSize, "PRIORITY of %d bytes", len(p))
	case binary.BigEndian.Uint32(p)&maxStreamID == f.stream:
		return connErrorf(codeProtocol, "stream %d depends on itself", f.stream)
	}
	return nil
}

func (c *conn) takeReset(f frame, p []byte) error {
	switch {
	case f.stream == 0:
		return connErrorf(codeProtocol, "RST_STREAM on stream 0")
	case len(p) != 4:
		return connErrorf(codeFrameSize, "RST_STREAM of %d bytes", len(p))
	}
	code := errCode(binary.BigEndian.Uint32(p))
	c.mu.Lock()
	s, idle := c.streams[f.stream], c.idle(f.stream)
	c.mu.Unlock()
	if idle {
		return connErrorf(codeProtocol, "RST_STREAM on idle stream %d", f.stream)
	}
	if err := c.floods.countReset(c); err != nil || s == nil {
		return err
	}
	c.o.Stats.RxReset.Inc()
	err := c.countPremature(s)
	c.reset(s, remoteReset(code))
	return err
}

// remoteReset is what a RST_STREAM says.
func remoteReset(code errCode) codec.Reset {
	r := codec.Reset{Reason: codec.RemoteOther, Remote: true, Code: uint32(code), Details: "http2.remote_reset"}
	switch code {
	case codeNoError:
		r.Reason = codec.NoError
	case codeRefusedStream:
		r.Reason, r.Details = codec.Refused, "http2.remote_refuse"
	case codeCancel:
		r.Reason = codec.Cancel
	case codeConnect:
		r.Reason = codec.ConnectError
	case codeInternal:
		r.Reason = codec.InternalError
	case codeProtocol:
		r.Reason = codec.ProtocolError
	case codeEnhanceYourCalm:
		r.Reason = codec.Overload
	}
	return r
}

func (c *conn) takePing(f frame, p []byte) error {
	switch {
	case f.stream != 0:
		return connErrorf(codeProtocol, "PING on stream %d", f.stream)
	case len(p) != 8:
		return connErrorf(codeFrameSize, "PING of %d bytes", len(p))
	case f.has(flagAck):
		c.pingAnswered()
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buffer()
	b.b = appendPing(b.b, flagAck, p)
	return c.queuedControl()
}

func (c *conn) takeWindowUpdate(f frame, p []byte) error {
	if len(p) != 4 {
		return connErrorf(codeFrameSize, "WINDOW_UPDATE of %d bytes", len(p))
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if n == 0 {
		return connErrorf(codeProtocol, "WINDOW_UPDATE of 0 on stream %d", f.stream)
	}
	c.mu.Lock()
	if f.stream == 0 {
		defer c.mu.Unlock()
		return c.widen(n)
	}
	idle, s := c.idle(f.stream), c.streams[f.stream]
	over := false
	if s != nil {
		s.sendWindow += n
		over = s.sendWindow > maxWindow
		c.makeReady(s)
	}
	c.mu.Unlock()
	if idle {
		return connErrorf(codeProtocol, "WINDOW_UPDATE on idle stream %d", f.stream)
	}
	if over {
		c.streamError(s, codeFlowControl, "", "a window of more than 2^31-1 bytes")
	}
	return nil
}

// widen adds to the connection's window; mu is held.
func (c *conn) widen(n int64) error {
	if c.sendWindow += n; c.sendWindow > maxWindow {
		return connErrorf(codeFlowControl, "a window of %d bytes for the connection", c.sendWindow)
	}
	c.wakeWriter()
	return nil
}

func (c *conn) takeSettings(f frame, p []byte) error {
	switch {
	case f.stream != 0:
		return connErrorf(codeProtocol, "SETTINGS on stream %d", f.stream)
	case f.has(flagAck) && len(p) > 0, len(p)%6 != 0:
		return connErrorf(codeFrameSize, "SETTINGS of %d bytes", len(p))
	case f.has(flagAck):
		c.dec.most = c.o.HeaderTableSize
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	grown, window := false, uint32(c.peerWindow)
	for ; len(p) > 0; p = p[6:] {
		s := setting{binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])}
		if err := c.apply(s); err != nil {
			return err
		}
		switch s.id {
		case settingMaxStreams:
			grown = true
		case settingInitialWindow:
			window = s.value
		}
	}
	// Once, for it costs a look at each stream, and a frame may have it often.
	if err := c.applyWindow(window); err != nil {
		return err
	}
	b := c.buffer()
	b.b = appendFrame(b.b, frame{kind: frameSettings, flags: flagAck})
	if grown && !c.server {
		c.freed = true
	}
	return c.queuedControl()
}

// apply takes one setting of the peer; mu is held.
func (c *conn) apply(s setting) error {
	switch s.id {
	case settingTableSize:
		c.enc.resize(min(s.value, c.o.HeaderTableSize))
	case settingEnablePush:
		if s.value > 1 || s.value == 1 && !c.server {
			return connErrorf(codeProtocol, "SETTINGS_ENABLE_PUSH of %d", s.value)
		}
	case settingMaxStreams:
		c.peerStreams = s.value
	case settingInitialWindow:
		if s.value > maxWindow {
			return connErrorf(codeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE of %d", s.value)
		}
	case settingMaxFrameSize:
		if s.value < maxFrame || s.value > maxFrameTop {
			return connErrorf(codeProtocol, "SETTINGS_MAX_FRAME_SIZE of %d", s.value)
		}
	case settingConnectProtocol:
		if s.value > 1 {
			return connErrorf(codeProtocol, "SETTINGS_ENABLE_CONNECT_PROTOCOL of %d", s.value)
		}
	}
	return nil
}

// applyWindow changes the windows of all open streams; mu is held.
func (c *conn) applyWindow(value uint32) error {
	more := int64(value) - c.peerWindow
	if more == 0 {
		return nil
	}
	c.peerWindow = int64(value)
	for _, s := range c.streams {
		if s.sendWindow += more; s.sendWindow > maxWindow {
			return connErrorf(codeFlowControl, "a window of %d bytes for stream %d", s.sendWindow, s.id)
		}
		c.makeReady(s)
	}
	return nil
}

func (c *conn) takeGoAway(f frame, p []byte) error {
	switch {
	case f.stream != 0:
		return connErrorf(codeProtocol, "GOAWAY on stream %d", f.stream)
	case len(p) < 8:
		return connErrorf(codeFrameSize, "GOAWAY of %d bytes", len(p))
	}
	last, code := binary.BigEndian.Uint32(p)&maxStreamID, errCode(binary.BigEndian.Uint32(p[4:]))
	why := string(p[8:min(len(p), 8+256)])
	c.o.Log.Debug("goaway received", "last_stream", last, "code", uint32(code), "debug", why)
	c.mu.Lock()
	c.peerGone = true
	if code != codeNoError {
		c.goAway = fmt.Errorf("http/2: the peer ended the connection with code %d, %q", code, why)
	}
	var refused []*stream
	for id, s := range c.streams {
		if !c.server && id > last {
			refused = append(refused, s)
		}
	}
	c.mu.Unlock()
	for _, s := range refused {
		c.reset(s, codec.Reset{Reason: codec.Refused, Remote: true, Code: uint32(code), Details: "http2.remote_refuse"})
	}
	c.side.drained()
	return nil
}
