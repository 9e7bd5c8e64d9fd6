package route

import (
	"errors"
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
)

// ops are what one level changes in the heads.
type ops struct{ request, response edit.Ops }

func (o *ops) compile(cfg config.HeaderOps, format edit.Formatter) error {
	var err1, err2 error
	if o.request, err1 = edit.CompileOps(cfg.RequestAdd, cfg.RequestRemove, format); err1 != nil {
		err1 = fmt.Errorf("request_%w", err1)
	}
	if o.response, err2 = edit.CompileOps(cfg.ResponseAdd, cfg.ResponseRemove, format); err2 != nil {
		err2 = fmt.Errorf("response_%w", err2)
	}
	return errors.Join(err1, err2)
}

// levels are the header operations in their order: the weighted cluster's, and
// from the route's to the route configuration's, or the reverse of these.
func (m *Match) levels() [4]*ops {
	var out [4]*ops
	if m.weighted != nil {
		out[0] = &m.weighted.ops
	}
	out[1], out[2], out[3] = &m.entry.ops, &m.host.ops, &m.table.ops
	if m.Config.MostSpecificWins {
		out[1], out[3] = out[3], out[1]
	}
	return out
}

// RewriteRequest makes the request the one that goes upstream: header
// operations, then host and path.
func (m *Match) RewriteRequest(h *message.Head, info *flow.Info) {
	if m.entry == nil {
		return
	}
	for _, o := range m.levels() {
		if o != nil {
			o.request.Apply(h, info)
		}
	}
	if m.Weighted != nil && m.Weighted.HostRewrite != "" { // without a trace in other fields, as Envoy
		h.Authority = m.Weighted.HostRewrite
	}
	if m.Route.Action != nil {
		m.rewriteHost(h, info)
		m.rewritePath(h, info)
	}
}

// RewriteResponse makes the answer the one that goes downstream.
func (m *Match) RewriteResponse(h *message.Head, info *flow.Info) {
	if m.entry == nil {
		return
	}
	for _, o := range m.levels() {
		if o != nil {
			o.response.Apply(h, info)
		}
	}
}
