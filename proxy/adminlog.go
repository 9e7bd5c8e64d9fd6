package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"outrider/proxy/filter"
	"outrider/proxy/flow"
)

// adminLogs opens the access logs of the admin interface: a mistake in one is
// an error of the start.
func (s *Server) adminLogs() ([]filter.AccessLogger, error) {
	var out []filter.AccessLogger
	var errs []error
	for i, cfg := range s.boot.Admin.AccessLogs {
		log, err := s.accessLog(cfg)
		if err != nil {
			errs = append(errs, fmt.Errorf("admin.access_log[%d]: %w", i, err))
		}
		out = append(out, log)
	}
	return out, errors.Join(errs...)
}

// logged writes an entry for each request to the admin interface. What belongs
// to HTTP is "-" in it.
func logged(next http.Handler, logs []filter.AccessLogger) http.Handler {
	if len(logs) == 0 {
		return next
	}
	var requests atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &flow.Info{ID: requests.Add(1), Start: time.Now(), Listener: "admin"}
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			info.Local = flowAddr(local)
		}
		if remote, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			info.Remote = flow.Addr{AddrPort: netipUnmap(remote)}
		}
		info.DirectLocal, info.DirectRemote = info.Local, info.Remote
		defer func() {
			info.End = time.Now()
			for _, log := range logs {
				log.Log(info, filter.EventNotSet)
			}
		}()
		next.ServeHTTP(&countedAnswer{ResponseWriter: w, info: info}, r)
	})
}

// countedAnswer counts the bytes of a body.
type countedAnswer struct {
	http.ResponseWriter
	info *flow.Info
}

func (c *countedAnswer) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.info.Sent.Add(uint64(n))
	return n, err
}

// Flush sends what is there (http.Flusher).
func (c *countedAnswer) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (c *countedAnswer) Unwrap() http.ResponseWriter { return c.ResponseWriter }
