package hcm

import (
	"fmt"
	"time"

	"outrider/proxy/config"
	netfilter "outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
	"outrider/proxy/rbac"
)

// ExplainRequest is what would become of a request on the connection that conn
// describes, by the table and the filters that requests pass. Its host and path
// are brought into their normal form; who the client is, is not asked of its
// headers. Nothing is counted and nothing dialled.
func (m *Manager) ExplainRequest(conn *flow.Info, head *message.Head) netfilter.Verdict {
	v := netfilter.Verdict{Filter: m.name, Type: "http_connection_manager", Request: &netfilter.RequestVerdict{}}
	t := m.routes.Load()
	if t == nil {
		v.Denied, v.Reason = true, "its route configuration has not come yet"
		return v
	}
	info := conn.NewRequest(time.Now())
	head = head.Clone()
	info.HTTP.Request = head
	m.stripHost(head, info)
	if head.Method != "CONNECT" {
		normal := m.normalPath(head.Path)
		if normal.Refused || normal.Redirect {
			v.Denied, v.Reason = true, fmt.Sprintf("the path %q is not in its normal form", head.Path)
			return v
		}
		head.Path = normal.Path
	}
	found, trace := t.Explain(&route.Request{Head: head, Info: info, Scheme: head.Scheme, Random: m.deps.Rand()})
	v.Request.VirtualHost, v.Request.Domain = trace.VirtualHost, trace.Domain
	for _, one := range trace.Trials {
		v.Request.Routes = append(v.Request.Routes, netfilter.RouteVerdict{Route: one.Route, Matched: one.Matched, Failed: one.Failed})
	}
	for _, f := range m.filters {
		one, runs := f.explain(info, found)
		if !runs {
			continue
		}
		v.Request.Filters = append(v.Request.Filters, one)
		if one.Denied {
			v.Denied, v.Reason = true, one.Reason
			return v
		}
	}
	explainRoute(&v, found, trace)
	return v
}

// explain is what the filter makes of the request; false if it does not run for
// it.
func (f *factory) explain(info *flow.Info, found *route.Match) (netfilter.Verdict, bool) {
	var o *config.FilterOverride
	disabled := f.disabled
	if found != nil {
		if o = found.Override(f.name); o != nil {
			disabled = o.Disabled
		}
	}
	v := netfilter.Verdict{Filter: f.name, Type: "http", Reason: "acts on each request: not evaluated here"}
	now := f.current()
	if now == nil {
		v.Denied, v.Reason = true, "its configuration has not come from the control plane yet"
	}
	if e, ok := now.(filter.Explainer); ok && !disabled {
		x := e.Explain(info, o)
		v.Denied, v.Reason = x.Denied, x.Reason
		if x.Rules != nil {
			v.Policy, v.Policies = x.Rules.Policy(), x.Rules.Policies
		}
		v.Shadow = f.shadow(x.Shadow)
	}
	return v, !disabled
}

func (f *factory) shadow(v *rbac.Verdict) *netfilter.Verdict {
	if v == nil {
		return nil
	}
	return &netfilter.Verdict{
		Filter: f.name, Type: "shadow rules", Denied: !v.Allowed, Reason: v.Reason, Policy: v.Policy(), Policies: v.Policies,
	}
}

// explainRoute says where the route leads.
func explainRoute(v *netfilter.Verdict, found *route.Match, trace route.Trace) {
	switch {
	case found == nil:
		v.Denied, v.Reason = true, trace.Refused
	case found.Route == nil:
		v.Denied, v.Reason = true, trace.Refused
	case found.Route.Redirect != nil:
		v.Reason = "the route redirects"
	case found.Route.Direct != nil:
		v.Reason = fmt.Sprintf("the route answers %d", found.Route.Direct.Status)
	case found.Route.Action == nil:
		v.Denied, v.Reason = true, "the route forwards nothing"
	case found.Cluster == "":
		v.Denied, v.Reason = true, "the header that names the cluster is not there"
	case found.Route.Action.Weighted != nil:
		w := found.Route.Action.Weighted
		v.Reason = fmt.Sprintf("HTTP to one of %d clusters", len(w.Clusters))
		for _, c := range w.Clusters {
			if c.Name != "" && c.Weight > 0 && w.Total > 0 {
				v.Clusters = append(v.Clusters, netfilter.ClusterShare{Cluster: c.Name, Share: float64(c.Weight) / float64(w.Total)})
			}
		}
	default:
		v.Reason = "HTTP to cluster " + found.Cluster
		v.Clusters = []netfilter.ClusterShare{{Cluster: found.Cluster, Share: 1}}
	}
}
