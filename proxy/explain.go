package proxy

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	"outrider/proxy/match"
	"outrider/tlsmux"
)

// Query describes a connection to explain. What is not given is what a plain
// client would have.
type Query struct {
	// Listener is where it is accepted; "" finds it by Destination.
	Listener string
	// Destination is the original destination; zero is the listener's own
	// address. Source is the client.
	Destination, Source netip.AddrPort
	TLS                 bool
	SNI                 string
	ALPN                []string
	// Peer is the client's certificate chain, leaf first; nil presents none.
	// PeerID alone stands for a chain that verifies, with that URI SAN.
	Peer   []*x509.Certificate
	PeerID string
	// Request is a request on the connection; nil asks about the connection
	// alone.
	Request *message.Head
}

// Explanation is what a described connection meets, step by step, by the code
// that real connections go through.
type Explanation struct {
	Listener   string   `json:"listener"`
	HandedFrom []string `json:"handed_from,omitempty"`
	// Chain is the filter chain; Match says why it and why not the others.
	Chain     string            `json:"filter_chain,omitempty"`
	Match     match.Explanation `json:"match"`
	Plaintext string            `json:"plaintext,omitempty"` // why there is no TLS
	// ServerFirst is what becomes of a client that says nothing; "" if it is
	// just waited for.
	ServerFirst string           `json:"server_first,omitempty"`
	TLS         *TLSExplanation  `json:"downstream_tls,omitempty"`
	Filters     []filter.Verdict `json:"filters,omitempty"`
	Upstream    []UpstreamChoice `json:"upstream,omitempty"`
	// Refused is why the connection would go no further; "" if it would.
	Refused string `json:"refused,omitempty"`
}

// TLSExplanation is what the chain demands of the client, and what it would
// say to this one.
type TLSExplanation struct {
	RequireClientCertificate bool     `json:"require_client_certificate"`
	Accepts                  []string `json:"accepts,omitempty"`
	Roots                    []string `json:"roots,omitempty"`
	ALPN                     string   `json:"negotiated_alpn,omitempty"`
	Matched                  string   `json:"matched,omitempty"` // the rule that let the client in
	Verdict                  string   `json:"verdict"`
}

// UpstreamChoice is one cluster that the connection may go to.
type UpstreamChoice struct {
	Cluster     string               `json:"cluster"`
	Share       float64              `json:"share"` // of 1
	Explanation *cluster.Explanation `json:"choice,omitempty"`
	Error       string               `json:"error,omitempty"`
}

// Explain follows q through the current snapshot. An error means that the
// query itself makes no sense.
func (s *Server) Explain(q Query) (*Explanation, error) {
	l, err := s.queried(q)
	if err != nil {
		return nil, err
	}
	info := q.info(l)
	e := &Explanation{}
	snap := l.current()
	for next := l.handOff(snap, info); next != nil; next = l.handOff(snap, info) {
		e.HandedFrom = append(e.HandedFrom, l.name)
		l, snap = next, next.current()
	}
	e.Listener = l.name
	if err := l.loops(snap, info); err != nil {
		e.Refused = err.Error()
		return e, nil
	}
	e.ServerFirst = l.explainServerFirst(snap, info)
	e.Match = snap.table.Explain(matchKey(info))
	chain := snap.find(info)
	if chain == nil {
		e.Refused = describeNoMatch(info)
		return e, nil
	}
	e.Chain = chain.cfg.Name
	info.FilterChain = chain.cfg.Name
	if e.TLS, e.Plaintext, err = chain.explainTLS(q, info); err != nil {
		e.Refused = err.Error()
		return e, nil
	}
	e.Filters = chain.filters.Explain(info)
	for _, v := range e.Filters {
		if v.Denied {
			e.Refused = v.Reason
			return e, nil
		}
		for _, target := range v.Clusters {
			e.Upstream = append(e.Upstream, s.explainCluster(target, info))
		}
	}
	return e, nil
}

// queried is the listener that q enters at.
func (s *Server) queried(q Query) (*liveListener, error) {
	if q.Listener != "" {
		if l := s.listeners.get(q.Listener); l != nil {
			return l, nil
		}
		var names []string
		for _, l := range s.listeners.sorted() {
			names = append(names, l.name)
		}
		return nil, fmt.Errorf("no listener %q; there are: %s", q.Listener, strings.Join(names, ", "))
	}
	if !q.Destination.IsValid() {
		return nil, fmt.Errorf("either a listener or a destination is needed")
	}
	if l := s.listeners.byDestination(q.Destination); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("no listener has the address %s; name the one that receives the redirected connection", q.Destination)
}

func (q Query) info(l *liveListener) *flow.Info {
	cfg := l.current().cfg
	info := &flow.Info{Listener: l.name, TransportProtocol: "raw_buffer"}
	info.DirectLocal = flow.Addr{AddrPort: cfg.Address.AddrPort, Path: cfg.Address.Pipe}
	info.Local = info.DirectLocal
	if q.Destination.IsValid() && q.Destination != cfg.Address.AddrPort {
		info.Local, info.LocalRestored = flow.Addr{AddrPort: q.Destination}, true
	}
	info.Remote = flow.Addr{AddrPort: q.Source}
	info.DirectRemote = info.Remote
	if q.TLS {
		info.TransportProtocol, info.SNI, info.ALPNs = "tls", strings.ToLower(q.SNI), q.ALPN
	}
	if q.Request != nil {
		info.HTTP = &flow.HTTP{Request: q.Request}
	}
	return info
}

// explainTLS says what the chain's transport socket would do. Its error is the
// refusal.
func (ch *liveChain) explainTLS(q Query, info *flow.Info) (e *TLSExplanation, plaintext string, refused error) {
	if ch.tls == nil {
		if q.TLS {
			return nil, "the chain has no transport socket: the client's TLS goes through as it is", nil
		}
		return nil, "the chain has no transport socket", nil
	}
	if !q.TLS {
		return nil, "", fmt.Errorf("the filter chain terminates TLS, and the client speaks plaintext")
	}
	x, err := ch.tls.Explain(tlsmux.ExplainQuery{ALPN: q.ALPN, SNI: q.SNI, Chain: q.Peer, PeerID: q.PeerID})
	e = &TLSExplanation{
		RequireClientCertificate: ch.cfg.TLS.RequireClientCertificate,
		Accepts:                  x.Accepts, Roots: x.Roots, ALPN: x.ALPN, Matched: x.Matched, Verdict: "accepted",
	}
	if err != nil {
		e.Verdict = err.Error()
		return e, "", err
	}
	info.Downstream = x.State
	return e, "", nil
}

func (s *Server) explainCluster(t filter.ClusterShare, info *flow.Info) UpstreamChoice {
	out := UpstreamChoice{Cluster: t.Cluster, Share: t.Share}
	c := s.clusters.Get(t.Cluster)
	if c == nil {
		out.Error = "there is no such cluster"
		return out
	}
	req := cluster.Request{Hash: t.Hash, HasHash: t.HasHash, Info: info}
	if info.LocalRestored {
		req.OriginalDst = info.Local.AddrPort
	}
	x := c.Explain(req)
	out.Explanation = &x
	return out
}

var _ = config.Inbound
