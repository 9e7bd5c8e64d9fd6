package h2

import "time"

// floodCounts are of frames that cost the peer little: Envoy's protocol
// constraints.
type floodCounts struct {
	empty         int // in a row
	priorities    int64
	windowUpdates int64
	streams       int64 // header blocks, on the server's side

	// resets is how many RST_STREAM frames were taken since resetsFrom, less
	// what the rate gives back.
	resets     float64
	resetsFrom time.Time
}

// count is called for each frame that comes.
func (n *floodCounts) count(c *conn, f frame, p []byte) error {
	switch f.kind {
	case frameHeaders, frameContinuation:
		if f.has(flagEndHeaders) {
			n.streams++
		}
		return n.countEmpty(c, f, p)
	case frameData:
		return n.countEmpty(c, f, p)
	case framePriority:
		n.priorities++
		if n.priorities > int64(c.o.MaxPriorityPerStream)*(1+n.opened(c)) {
			c.o.Stats.PriorityFlood.Inc()
			return &connError{code: codeEnhanceYourCalm, what: "too many PRIORITY frames", details: "http2.priority_flood", silent: true}
		}
	case frameWindowUpdate:
		return n.countWindowUpdate(c)
	case frameReset, frameSettings, framePushPromise, framePing, frameGoAway:
	}
	return nil
}

// opened is how many streams there were.
func (n *floodCounts) opened(c *conn) int64 {
	if c.server {
		return n.streams
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.requests)
}

func (n *floodCounts) countEmpty(c *conn, f frame, p []byte) error {
	length := f.length
	if f.has(flagPadded) && length > 0 && f.kind != frameContinuation {
		length -= 1 + int(p[0])
	}
	if length > 0 || f.has(flagEndStream) && f.kind != frameContinuation {
		n.empty = 0
		return nil
	}
	if n.empty++; n.empty <= c.o.MaxEmptyDataFrames {
		return nil
	}
	c.o.Stats.EmptyFrames.Inc()
	return &connError{code: codeEnhanceYourCalm, what: "too many frames without payload", details: "http2.inbound_empty_frames_flood", silent: true}
}

func (n *floodCounts) countWindowUpdate(c *conn) error {
	n.windowUpdates++
	if n.windowUpdates <= 5+2*n.streams {
		return nil
	}
	limit := 5 + 2*n.opened(c)
	c.mu.Lock()
	limit += 2 * int64(c.o.MaxWindowUpdatesPerData) * c.dataFrames
	c.mu.Unlock()
	if n.windowUpdates <= limit {
		return nil
	}
	c.o.Stats.WindowUpdateFlood.Inc()
	return &connError{code: codeEnhanceYourCalm, what: "too many WINDOW_UPDATE frames", details: "http2.window_update_flood", silent: true}
}

// countReset takes one of the RST_STREAM frames that a client may send
// (stream_reset_burst, stream_reset_rate).
func (n *floodCounts) countReset(c *conn) error {
	if !c.server {
		return nil
	}
	if n.resets++; n.resets <= float64(c.o.StreamResetBurst) {
		return nil
	}
	now := time.Now()
	from := n.resetsFrom
	if from.IsZero() {
		from = c.opened
	}
	n.resets = max(1, n.resets-now.Sub(from).Seconds()*float64(c.o.StreamResetRate))
	n.resetsFrom = now
	if n.resets <= float64(c.o.StreamResetBurst) {
		return nil
	}
	return connErrorf(codeInternal, "more than %d RST_STREAM frames, and %d each second", c.o.StreamResetBurst, c.o.StreamResetRate)
}

// countPremature looks at a stream that the peer reset: one that was young and
// had no response counts against the client (CVE-2023-44487). Half of
// PrematureResetCount, or of all streams if they are more, is too many.
func (c *conn) countPremature(s *stream) error {
	if !c.server {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.headSent || time.Since(s.began) >= c.o.PrematureResetLifetime {
		return nil
	}
	c.resetsTooSoon++
	if 2*c.resetsTooSoon < max(c.o.PrematureResetCount, c.closedStreams+1) {
		return nil
	}
	if c.o.PrematureResets != nil {
		c.o.PrematureResets.Inc()
	}
	return &connError{code: codeEnhanceYourCalm, what: "too many streams were reset by the client", details: "too_many_premature_resets", silent: true}
}
