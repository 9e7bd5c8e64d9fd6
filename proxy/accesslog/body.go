package accesslog

import (
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// Body compiles the format of a log to what it makes of a request, for answers
// in the format of a log (Envoy: SubstitutionFormatString). A text is as it
// stands; JSON ends with a newline, as in Envoy.
func Body(cfg *config.AccessLog) (func(*flow.Info) string, error) {
	l, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	return func(info *flow.Info) string {
		e := &entry{info: info, now: time.Now()}
		if !l.isJSON {
			return string(l.text.plain(nil, e, l.omit))
		}
		return string(l.append(nil, e))
	}, nil
}
