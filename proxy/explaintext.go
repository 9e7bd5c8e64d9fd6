package proxy

import (
	"cmp"
	"fmt"
	"strings"

	"outrider/proxy/cluster"
	"outrider/proxy/filter"
	"outrider/proxy/match"
)

// Text is the explanation as a person reads it, a line each.
func (e *Explanation) Text() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-18s %s\n", label, fmt.Sprintf(format, args...))
	}
	for _, l := range e.HandedFrom {
		line("accepted by", "%s, which hands it over (use_original_dst)", l)
	}
	line("listener", "%s", e.Listener)
	writeMatch(line, e.Match)
	if e.ServerFirst != "" {
		line("server first", "%s", e.ServerFirst)
	}
	if e.Plaintext != "" {
		line("downstream", "plaintext: %s", e.Plaintext)
	}
	if e.TLS != nil {
		e.TLS.write(line)
	}
	for _, v := range e.Filters {
		writeVerdict(line, v)
	}
	for _, u := range e.Upstream {
		u.write(line)
	}
	if e.Refused != "" {
		line("REFUSED", "%s", e.Refused)
	}
	return b.String()
}

// printer writes one labelled line.
type printer func(label, format string, args ...any)

func writeMatch(line printer, m match.Explanation) {
	switch m.Index {
	case match.NoChain:
		line("filter chain", "none")
	case match.DefaultChain:
		line("filter chain", "default_filter_chain %q", m.Chain)
	default:
		line("filter chain", "filter_chains[%d] %q", m.Index, m.Chain)
	}
	for _, step := range m.Path {
		if step.Took != "any" {
			line("", "  by %s: %s", step.Criterion, step.Took)
		}
	}
	for _, l := range m.Losers {
		line("", "  not filter_chains[%d] %q: %s %s", l.Index, l.Chain, l.Criterion, l.Reason)
	}
}

func (x *TLSExplanation) write(line printer) {
	line("downstream", "TLS, client certificate %s", map[bool]string{true: "required", false: "optional"}[x.RequireClientCertificate])
	if len(x.Accepts) > 0 {
		line("", "  accepts %s", strings.Join(x.Accepts, " or "))
	}
	if len(x.Roots) > 0 {
		line("", "  roots %s", strings.Join(x.Roots, ", "))
	}
	if x.ALPN != "" {
		line("", "  negotiates %s", x.ALPN)
	}
	if x.Matched != "" {
		line("", "  %s, by %s", x.Verdict, x.Matched)
		return
	}
	line("", "  %s", x.Verdict)
}

func writeVerdict(line printer, v filter.Verdict) {
	line("filter", "%s: %s", v.Filter, v.Reason)
	for _, p := range v.Policies {
		if p.Matched {
			line("", "  policy %q matches", p.Policy)
		}
		for _, f := range p.Failed {
			line("", "  policy %q does not match: %s", p.Policy, f)
		}
	}
	if v.Shadow != nil {
		line("", "  shadow rules: %s", v.Shadow.Reason)
	}
	if v.Request != nil {
		writeRequest(line, v.Request)
	}
}

func writeRequest(line printer, r *filter.RequestVerdict) {
	if r.VirtualHost == "" {
		line("virtual host", "none")
	} else {
		line("virtual host", "%s, by domain %s", r.VirtualHost, r.Domain)
	}
	for _, one := range r.Routes {
		if one.Matched {
			line("route", "%s", one.Route)
			continue
		}
		line("", "  not %s: %s", one.Route, one.Failed)
	}
	for _, f := range r.Filters {
		writeVerdict(func(label, format string, args ...any) {
			if label == "filter" {
				label = "HTTP filter"
			}
			line(label, format, args...)
		}, f)
	}
}

func (u *UpstreamChoice) write(line printer) {
	share := ""
	if u.Share < 1 {
		share = fmt.Sprintf(" (%.1f %% of connections)", u.Share*100)
	}
	line("cluster", "%s%s", u.Cluster, share)
	if u.Error != "" {
		line("", "  %s", u.Error)
	}
	if u.Explanation != nil {
		writeChoice(line, u.Explanation)
	}
}

func writeChoice(line printer, x *cluster.Explanation) {
	if x.Host == "" {
		line("endpoint", "none: %s", x.Reason)
		return
	}
	line("endpoint", "%s, priority %d, %s, one of %d", x.Host, x.Priority, x.Health, x.Hosts)
	name := x.Socket
	if name == "" {
		name = "the cluster's own"
	}
	line("transport socket", "%s (%s)", name, cmp.Or(x.Transport, "plaintext"))
	if x.TLS {
		line("", "  SNI %q, ALPN %s", x.SNI, strings.Join(x.ALPN, ", "))
	}
	for _, t := range x.Trials {
		if !t.Matched {
			got := t.Got
			if got == "" {
				got = "nothing"
			}
			line("", "  not %q: it wants %s %s, the %s's metadata has %s", t.Name, t.Label, t.Want, t.On, got)
		}
	}
}
