package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"outrider/proxy/admin"
	"outrider/proxy/dns"
	"outrider/proxy/xds"
)

// openDNS opens the resolver's sockets, and asks for its table of names on the
// aggregated stream.
func (s *Server) openDNS() error {
	if s.opts.DNS == nil || s.opts.NoSockets {
		return nil
	}
	if s.boot.ADS == nil {
		return errors.New("DNS: the table of names comes by the aggregated stream, and the bootstrap has no ads_config")
	}
	o := *s.opts.DNS
	o.Log, o.Stats = s.log, s.registry.Scope("outrider").Scope("dns")
	var err error
	if s.dns, err = dns.New(o); err != nil {
		return err
	}
	names := xds.Type{URL: dns.TypeURL, Name: xds.Nameless, Apply: s.takeNames}
	s.opts.Types = append([]xds.Type{names}, s.opts.Types...)
	return nil
}

// closeDNS closes the sockets of a server that will not run.
func (s *Server) closeDNS() {
	if s.dns != nil {
		s.dns.Close()
	}
}

// takeNames takes a table of names. One that is refused, or removed, leaves the
// last in use.
func (s *Server) takeNames(u xds.Update) map[string]error {
	for _, r := range u.Updated {
		t, err := dns.ParseTable(r.Body)
		if err != nil {
			return map[string]error{r.Name: err}
		}
		s.dns.SetTable(t)
	}
	return nil
}

// dnsPages are the pages of the admin interface about names.
func (s *Server) dnsPages() []admin.Handler {
	if s.dns == nil {
		return nil
	}
	return []admin.Handler{
		{Path: "/dns", Help: "say where the answer to a question for a name comes from: ?name= &format=json", Handler: http.HandlerFunc(s.dnsHandler)},
		{Path: "/dns_table", Help: "print the table of names", Handler: http.HandlerFunc(s.dnsTableHandler)},
	}
}

func (s *Server) dnsHandler(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	if v.Get("name") == "" {
		http.Error(w, "name: what is looked up", http.StatusBadRequest)
		return
	}
	a := s.dns.Lookup(v.Get("name"))
	if v.Get("format") != "json" {
		fmt.Fprintln(w, a)
		return
	}
	writeIndented(w, a)
}

func (s *Server) dnsTableHandler(w http.ResponseWriter, _ *http.Request) {
	out := struct {
		// Come is false before the first table.
		Come    bool        `json:"come"`
		Hosts   []dns.Entry `json:"hosts"`
		Ignored []string    `json:"ignored,omitempty"`
	}{Hosts: []dns.Entry{}}
	if t := s.dns.Table(); t != nil {
		out.Come, out.Hosts, out.Ignored = true, append(out.Hosts, t.Entries()...), t.Ignored()
	}
	writeIndented(w, out)
}

func writeIndented(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	_ = enc.Encode(v) // the client has gone: there is nobody to tell
}
