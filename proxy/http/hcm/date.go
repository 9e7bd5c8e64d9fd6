package hcm

import (
	"net/http"
	"sync/atomic"
	"time"
)

// dateCache is the text of a Date field (RFC 9110 section 6.6.1), which is good
// for a second.
type dateCache struct{ current atomic.Pointer[dated] }

type dated struct {
	unix int64
	text string
}

func (c *dateCache) at(now time.Time) string {
	if d := c.current.Load(); d != nil && d.unix == now.Unix() {
		return d.text
	}
	d := &dated{unix: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
	c.current.Store(d)
	return d.text
}
