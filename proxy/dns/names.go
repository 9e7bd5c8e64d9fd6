package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	wire "github.com/miekg/dns"
)

// ttl is the life of an answer from the table, in seconds (Istio's
// defaultTTLInSeconds): short, so that a change is soon seen.
const ttl = 30

// names is a table as it is asked: every form of a name that has an answer. It
// does not change.
type names struct {
	byName map[string]*record // lower case, with a dot at the end
	search string             // the first search domain, likewise; "" for none
	wild   bool               // some name begins with "*."
}

// record is what is known of a name.
type record struct {
	entry  *Entry
	v4, v6 []netip.Addr
}

// place is whose names are short: Kubernetes' services have short forms in
// their own cluster, and the shortest one in their own namespace.
type place struct {
	namespace string
	domain    string // "svc.cluster.local", without the namespace
}

// newPlace takes a proxy's DNS domain, which may begin with its namespace.
func newPlace(namespace, domain string) place {
	domain = strings.Trim(domain, ".")
	if namespace != "" {
		if domain == namespace {
			domain = ""
		}
		domain = strings.TrimPrefix(domain, namespace+".")
	}
	return place{namespace: namespace, domain: domain}
}

// newNames makes the forms of all hosts. A host's own name wins over a short
// form of another.
func newNames(t *Table, p place, search []string) *names {
	n := &names{byName: make(map[string]*record, 4*len(t.entries))}
	if len(search) > 0 {
		n.search = fqdn(search[0])
	}
	records := make([]*record, len(t.entries))
	for i := range t.entries {
		e := &t.entries[i]
		r := &record{entry: e}
		for _, a := range e.Addresses {
			if a.Is4() {
				r.v4 = append(r.v4, a)
			} else {
				r.v6 = append(r.v6, a)
			}
		}
		records[i] = r
		n.byName[fqdn(e.Host)] = r
		n.wild = n.wild || strings.HasPrefix(e.Host, "*.")
	}
	for _, r := range records {
		for _, short := range p.shortForms(r.entry) {
			if name := fqdn(short); n.byName[name] == nil {
				n.byName[name] = r
			}
		}
	}
	return n
}

// shortForms are the other names of e. A service of another cluster has none,
// for there may be one of that name in this cluster.
func (p place) shortForms(e *Entry) []string {
	if e.Registry != kubernetes || p.domain == "" || !strings.HasSuffix(e.Host, p.domain) {
		return nil
	}
	out := append([]string(nil), e.AltHosts...)
	if e.Shortname == "" || e.Namespace == "" {
		return out
	}
	service := e.Shortname + "." + e.Namespace
	svc, _, _ := strings.Cut(p.domain, ".")
	out = append(out, service, service+"."+svc)
	if p.namespace == e.Namespace {
		out = append(out, e.Shortname)
	}
	return out
}

func fqdn(name string) string { return wire.Fqdn(strings.ToLower(name)) }

// finding is where a name was found.
type finding struct {
	*record
	name string // the name of the table that matched; may begin with "*."
	// target is the asked name without the search domain, which the answer
	// leads to by a CNAME; "" if none was there.
	target string
}

// find looks for a name, lower case and with a dot at the end: itself, then
// without the first search domain (a client tries that first, and is so spared
// the others), then by wildcards, the longest first.
func (n *names) find(name string) (finding, bool) {
	target := n.withoutSearch(name)
	if r := n.byName[name]; r != nil {
		return finding{record: r, name: name}, true
	}
	if r := n.byName[target]; target != "" && r != nil {
		return finding{record: r, name: target, target: target}, true
	}
	if !n.wild {
		return finding{}, false
	}
	for off, end := wire.NextLabel(name, 0); !end; off, end = wire.NextLabel(name, off) {
		pattern := "*." + name[off:]
		if r := n.byName[pattern]; r != nil {
			return finding{record: r, name: pattern}, true
		}
		if target == "" || off >= len(target) {
			continue
		}
		pattern = "*." + target[off:]
		if r := n.byName[pattern]; r != nil {
			return finding{record: r, name: pattern, target: target}, true
		}
	}
	return finding{}, false
}

// withoutSearch is name without the search domain; "" if it is not under it,
// or still is (Istio expands no name of the search domain).
func (n *names) withoutSearch(name string) string {
	target, under := strings.CutSuffix(name, n.search)
	if n.search == "" || !under || !strings.HasSuffix(target, ".") || target == "." || strings.HasSuffix(target, n.search) {
		return ""
	}
	return target
}

// answers are the records for a question of type A or AAAA, the addresses in
// random order. None is an answer too: the name is there, the family is not.
func (f finding) answers(q wire.Question) []wire.RR {
	addrs := f.v4
	if q.Qtype == wire.TypeAAAA {
		addrs = f.v6
	}
	if len(addrs) == 0 {
		return nil
	}
	out := make([]wire.RR, 0, len(addrs)+1)
	owner := q.Name
	if f.target != "" {
		out = append(out, &wire.CNAME{Hdr: header(owner, wire.TypeCNAME), Target: f.target})
		owner = f.target
	}
	for _, i := range rand.Perm(len(addrs)) {
		if a := addrs[i]; a.Is4() {
			out = append(out, &wire.A{Hdr: header(owner, wire.TypeA), A: a.AsSlice()})
		} else {
			out = append(out, &wire.AAAA{Hdr: header(owner, wire.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return out
}

func header(name string, rrtype uint16) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: rrtype, Class: wire.ClassINET, Ttl: ttl}
}
