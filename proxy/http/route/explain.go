package route

import "fmt"

// Trace is how a route was found, or not.
type Trace struct {
	// Host is what the domains were compared with.
	Host string `json:"host"`
	// VirtualHost is the one whose Domain matched; "" for none.
	VirtualHost string  `json:"virtual_host,omitempty"`
	Domain      string  `json:"domain,omitempty"`
	Trials      []Trial `json:"routes,omitempty"` // in their order, to the first that matched
	Cluster     string  `json:"cluster,omitempty"`
	// Refused is why there is no route, or a redirect in its place; "" if
	// there is one.
	Refused string `json:"refused,omitempty"`
}

// Trial is how one route fared.
type Trial struct {
	Route   string `json:"route"` // its name, or its place: routes[2]
	Matched bool   `json:"matched"`
	// Failed is the first criterion that did not match, and with what.
	Failed string `json:"failed,omitempty"`
}

// Explain is Find, with how it comes to its result; the Match is nil if there
// is none.
func (t *Table) Explain(r *Request) (*Match, Trace) {
	var trace Trace
	m := t.find(r, &trace)
	switch {
	case m != nil:
	case trace.VirtualHost == "" && trace.Domain == "":
		trace.Refused = fmt.Sprintf("no virtual host of route configuration %q has a domain for %q", t.cfg.Name, trace.Host)
	default:
		trace.Refused = fmt.Sprintf("no route of virtual host %q matches", trace.VirtualHost)
	}
	return m, trace
}

// The methods below, but try, do nothing on a nil Trace or Trial.

// host notes which virtual host a name has, and returns it.
func (t *Trace) host(name string, h *host, domain string) *host {
	if t != nil {
		t.Host = name
		if h != nil {
			t.VirtualHost, t.Domain = h.cfg.Name, domain
		}
	}
	return h
}

func (t *Trace) demandsTLS(r *Request) {
	if t != nil {
		t.Refused = fmt.Sprintf("virtual host %q requires TLS, and the request came by %q", t.VirtualHost, r.forwarded())
	}
}

// try begins with a route.
func (t *Trace) try(i int, e *entry) *Trial {
	name := e.cfg.Name
	if name == "" {
		name = fmt.Sprintf("routes[%d]", i)
	}
	t.Trials = append(t.Trials, Trial{Route: name})
	return &t.Trials[len(t.Trials)-1]
}

func (t *Trace) found(m *Match) {
	if t != nil {
		t.Trials[len(t.Trials)-1].Matched = true
		t.Cluster = m.Cluster
	}
}

// fails notes why a criterion does not match, and is false.
func (t *Trial) fails(criterion string, why func() string) bool {
	if t != nil {
		t.Failed = criterion + ": " + why()
	}
	return false
}
