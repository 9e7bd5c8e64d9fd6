package proxy

import (
	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/filter"
	"outrider/proxy/flow"
)

// connectionLog is an access log as the filters use it.
type connectionLog struct{ log *accesslog.Log }

func (l connectionLog) Log(info *flow.Info, event filter.AccessEvent) {
	l.log.Write(info, event.String())
}

func (s *Server) accessLog(cfg *config.AccessLog) (filter.AccessLogger, error) {
	if s.opts.NoSockets {
		return connectionLog{}, accesslog.Check(cfg)
	}
	log, err := accesslog.New(cfg, s.logs)
	if err != nil {
		return nil, err
	}
	return connectionLog{log}, nil
}
