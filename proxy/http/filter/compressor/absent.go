package compressor

import (
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// absent is a compressor whose library outrider has not, brotli. It offers
// nothing: responses go on by another compressor of the request, or as they are.
// Its counters stay away.
type absent struct{ cfg *config.Compressor }

// newAbsent refuses to compress requests, which their receiver did not choose
// and may count on.
func newAbsent(c *config.Compressor) (filter.Factory, error) {
	if c.Request {
		return nil, fmt.Errorf("compressor library %s is not supported by outrider for requests: use gzip or zstd", c.Library)
	}
	return absent{c}, nil
}

// New is the filter of a request, nil if there is nothing to do.
func (a absent) New(s filter.Stream) filter.Filter {
	remove, disabled := a.cfg.RemoveAccept, false
	if o := s.Override(); o != nil && o.Config != nil {
		if own, ok := o.Config.(*config.CompressorOverride); ok {
			disabled = own.Disabled
			if own.RemoveAccept != nil {
				remove = *own.RemoveAccept
			}
		}
	}
	if disabled || !remove || a.cfg.ResponsePPM == 0 {
		return nil
	}
	return &acceptRemover{}
}

// Check is filter.Checker.
func (absent) Check(o *config.FilterOverride) error { return checkOverride(o) }

// acceptRemover keeps what the client accepts from going on.
type acceptRemover struct{ filter.Pass }

// RequestHead removes accept-encoding.
func (*acceptRemover) RequestHead(h *message.Head, _ bool) filter.Action {
	h.Fields.Del("accept-encoding")
	return filter.Continue
}
