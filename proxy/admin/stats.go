package admin

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"outrider/proxy/stats"
)

func (a *handler) stats(w http.ResponseWriter, r *http.Request) {
	q, err := statsQuery(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	a.opts.Refresh()
	// Every error below is that the client has gone: there is nobody to tell.
	switch r.URL.Query().Get("format") {
	case "", "text":
		_ = a.opts.Stats.Text(w, q)
	case "json":
		w.Header().Set("Content-Type", "application/json")
		_ = a.opts.Stats.JSON(w, q)
	case "prometheus":
		a.prometheus(w, r)
	default:
		refuse(w, http.StatusBadRequest, "usage: /stats?format=(json|prometheus|text)\n\n")
	}
}

func (a *handler) prometheus(w http.ResponseWriter, r *http.Request) {
	q, err := statsQuery(r)
	if err == nil && (q.Buckets == stats.Disjoint || q.Buckets == stats.Detailed) {
		err = errors.New("unsupported prometheus histogram bucket mode")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	a.opts.Refresh()
	_ = a.opts.Stats.Prometheus(w, q) // as above
}

func statsQuery(r *http.Request) (stats.Query, error) {
	v := r.URL.Query()
	q := stats.Query{
		UsedOnly: v.Has("usedonly"), Type: v.Get("type"), Invert: v.Has("invert_filter"), TextReadouts: v.Has("text_readouts"),
	}
	if text := v.Get("filter"); text != "" {
		var err error
		if q.Filter, err = regexp.Compile(text); err != nil {
			return q, fmt.Errorf("Invalid re2 regex: %w", err) //nolint:staticcheck // Envoy's text
		}
	}
	switch q.Type {
	case "", "All", "Counters", "Gauges", "Histograms", "TextReadouts":
	default:
		return q, errors.New("invalid &type= param")
	}
	switch v.Get("histogram_buckets") {
	case "":
	case "none", "summary":
		q.Buckets = stats.Summary
	case "cumulative":
		q.Buckets = stats.Cumulative
	case "disjoint":
		q.Buckets = stats.Disjoint
	case "detailed":
		q.Buckets = stats.Detailed
	default:
		return q, errors.New("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n")
	}
	return q, nil
}
