package filter

import (
	"errors"
	"slices"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// tlvMaker makes one of proxy_protocol_tlvs.
type tlvMaker struct {
	config.TLV
	make func(*flow.Info) string // nil: Value
}

func newTLVMaker(cfg config.TLV, d *Deps) (tlvMaker, error) {
	out := tlvMaker{TLV: cfg}
	if cfg.Format == "" {
		return out, nil
	}
	if d.Format == nil {
		return out, errors.New("there are no formats here")
	}
	var err error
	out.make, err = d.Format(cfg.Format, cfg.OmitEmpty)
	return out, err
}

// addTLVs merges what tcp_proxy adds with what came in the client's PROXY
// header. Whether they go on is the transport socket's to say.
func (p *tcpProxy) addTLVs(info *flow.Info) {
	if len(p.tlvs) == 0 || info.ProxyHeader && p.cfg.TLVMerge == config.AddIfAbsent {
		return
	}
	var made []flow.TLV
	for _, t := range p.tlvs {
		value := t.Value
		if t.make != nil {
			value = []byte(t.make(info))
		}
		made = append(made, flow.TLV{Type: t.Type, Value: value})
	}
	var kept []flow.TLV // a new list: the old one is shared with copies of info
	for _, t := range info.TLVs {
		overwritten := slices.ContainsFunc(made, func(m flow.TLV) bool { return m.Type == t.Type })
		if p.cfg.TLVMerge != config.OverwriteByType || !overwritten {
			kept = append(kept, t)
		}
	}
	info.TLVs = append(kept, made...)
}
