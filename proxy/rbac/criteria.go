package rbac

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// rule is one criterion of a policy. It never matches what it cannot know.
type rule interface {
	match(f *facts) bool
	// why is the first criterion that keeps it from matching, with the value
	// that the connection has. It is asked only if match is false.
	why(f *facts) string
	String() string
}

func anyMatches(rules []rule, f *facts) bool {
	for _, r := range rules {
		if r.match(f) {
			return true
		}
	}
	return false
}

var errNoRule = errors.New("no rule is set")

func compilePermission(p *config.Permission) (rule, error) {
	switch {
	case p == nil:
		return nil, errNoRule
	case p.Any:
		return always{}, nil
	case p.And != nil:
		rules, err := compileAll(p.And, compilePermission)
		return all(rules), err
	case p.Or != nil:
		rules, err := compileAll(p.Or, compilePermission)
		return anyOf(rules), err
	case p.Not != nil:
		r, err := compilePermission(p.Not)
		return not{r}, at(err, "not_rule")
	case p.DestinationIP != nil:
		return inPrefix{"destination_ip", *p.DestinationIP, (*facts).destination}, nil
	case p.DestinationPort != nil:
		return inPorts{"destination_port", int32(*p.DestinationPort), int32(*p.DestinationPort) + 1}, nil
	case p.PortRange != nil:
		return inPorts{"destination_port_range", p.PortRange.Start, p.PortRange.End}, nil
	case p.RequestedServer != nil:
		return serverName{*p.RequestedServer}, nil
	case p.Metadata != nil:
		return metadataRule{p.Metadata}, nil
	case p.HTTPOnly:
		return httpOnly{}, nil
	}
	if r, ok, err := ofHTTP(p.Header, p.URLPath, p.Template); ok {
		return r, err
	}
	return nil, errNoRule
}

func compilePrincipal(p *config.Principal) (rule, error) {
	switch {
	case p == nil:
		return nil, errNoRule
	case p.Any:
		return always{}, nil
	case p.And != nil:
		rules, err := compileAll(p.And, compilePrincipal)
		return all(rules), err
	case p.Or != nil:
		rules, err := compileAll(p.Or, compilePrincipal)
		return anyOf(rules), err
	case p.Not != nil:
		r, err := compilePrincipal(p.Not)
		return not{r}, at(err, "not_id")
	case p.Authenticated != nil:
		return authenticated{p.Authenticated.Name}, nil
	case p.SourceIP != nil:
		if p.Forwarded {
			return inPrefix{"remote_ip", *p.SourceIP, (*facts).source}, nil
		}
		return inPrefix{"source_ip", *p.SourceIP, (*facts).connection}, nil
	case p.DirectRemoteIP != nil:
		return inPrefix{"direct_remote_ip", *p.DirectRemoteIP, (*facts).directRemote}, nil
	case p.FilterState != nil:
		if p.FilterState.String == nil {
			return nil, fmt.Errorf("filter_state %q: no matcher is set", p.FilterState.Key)
		}
		return filterState{p.FilterState.Key, *p.FilterState.String}, nil
	case p.Metadata != nil:
		return metadataRule{p.Metadata}, nil
	case p.HTTPOnly:
		return httpOnly{}, nil
	}
	if r, ok, err := ofHTTP(p.Header, p.URLPath, ""); ok {
		return r, err
	}
	return nil, errNoRule
}

func compileAll[T any](cfg []*T, compile func(*T) (rule, error)) ([]rule, error) {
	var out []rule
	var errs []error
	for i, c := range cfg {
		r, err := compile(c)
		errs = append(errs, at(err, "[%d]", i))
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

// always is any: true.
type always struct{}

func (always) match(*facts) bool { return true }
func (always) why(*facts) string { return "" }
func (always) String() string    { return "any" }

// all is and_rules, and_ids: true if it is empty, as in Envoy.
type all []rule

func (a all) match(f *facts) bool {
	for _, r := range a {
		if !r.match(f) {
			return false
		}
	}
	return true
}

func (a all) why(f *facts) string {
	for _, r := range a {
		if !r.match(f) {
			return r.why(f)
		}
	}
	return ""
}

func (a all) String() string { return "(" + join(a, " and ") + ")" }

// anyOf is or_rules, or_ids: false if it is empty.
type anyOf []rule

func (o anyOf) match(f *facts) bool { return anyMatches(o, f) }

func (o anyOf) why(f *facts) string {
	var out []string
	for _, r := range o {
		out = append(out, r.why(f))
	}
	return "none of: " + strings.Join(out, "; ")
}

func (o anyOf) String() string { return "(" + join(o, " or ") + ")" }

func join(rules []rule, sep string) string {
	var out []string
	for _, r := range rules {
		out = append(out, r.String())
	}
	return strings.Join(out, sep)
}

// not is not_rule, not_id.
type not struct{ rule }

func (n not) match(f *facts) bool { return !n.rule.match(f) }
func (n not) why(*facts) string   { return n.String() + ": it is" }
func (n not) String() string      { return "not " + n.rule.String() }

// httpOnly stands for what only HTTP has: a path. Envoy matches it on empty
// headers, so it does not match, and its negation does. Headers are refused
// when the configuration is read, here and in Envoy.
type httpOnly struct{}

func (httpOnly) match(*facts) bool { return false }
func (httpOnly) why(*facts) string { return "url_path: a connection has none" }
func (httpOnly) String() string    { return "url_path" }

// inPrefix is a rule on one of the addresses.
type inPrefix struct {
	field  string
	prefix netip.Prefix
	of     func(*facts) flow.Addr
}

// match leaves the zone out: a prefix never contains an address with one.
func (p inPrefix) match(f *facts) bool {
	return p.prefix.Contains(p.of(f).Addr().Unmap().WithZone(""))
}

func (p inPrefix) why(f *facts) string { return fmt.Sprintf("%s: it is %q", p, ipOf(p.of(f))) }
func (p inPrefix) String() string      { return p.field + " " + p.prefix.String() }

func ipOf(a flow.Addr) string {
	if a.IsIP() {
		return a.Addr().String()
	}
	return a.Path
}

// inPorts is a rule on the destination port: [start, end).
type inPorts struct {
	field      string
	start, end int32
}

func (p inPorts) match(f *facts) bool {
	dst := f.destination()
	port := int32(dst.Port())
	return dst.IsIP() && p.start <= port && port < p.end
}

func (p inPorts) why(f *facts) string {
	return fmt.Sprintf("%s: it is %s", p, f.destination())
}

func (p inPorts) String() string {
	if p.end == p.start+1 {
		return fmt.Sprintf("%s %d", p.field, p.start)
	}
	return fmt.Sprintf("%s [%d, %d)", p.field, p.start, p.end)
}

// serverName is requested_server_name.
type serverName struct{ m certs.StringMatcher }

func (s serverName) match(f *facts) bool { return s.m.Match(f.SNI) }
func (s serverName) why(f *facts) string { return fmt.Sprintf("%s: it is %q", s, f.SNI) }
func (s serverName) String() string      { return "requested_server_name " + s.m.String() }

// filterState is a rule on one object of the filter state.
type filterState struct {
	key string
	m   certs.StringMatcher
}

func (s filterState) match(f *facts) bool {
	v, ok := (*flow.Info)(f).State(s.key)
	return ok && s.m.Match(v)
}

func (s filterState) why(f *facts) string {
	v, ok := (*flow.Info)(f).State(s.key)
	if !ok {
		return s.String() + ": it is not set"
	}
	return fmt.Sprintf("%s: it is %q", s, v)
}

func (s filterState) String() string { return fmt.Sprintf("filter_state %q %s", s.key, s.m) }
