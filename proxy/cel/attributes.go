package cel

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strconv"
	"strings"

	"outrider/proxy/flow"
	"outrider/proxy/istio/peer"
	"outrider/tlsmux"
)

// root is what has attributes: request, source, ...
type root struct {
	name       string
	attributes map[string]getter
	any        func(name string) getter // for names that are not known before; nil if there are none
}

func (root) eval(*Subject) (any, error) { return nil, errType }

// rootOf is what has attributes under a name.
func rootOf(name string) (root, bool) {
	r := root{name: name}
	switch name {
	case "request":
		r.attributes = requestAttributes()
	case "response":
		r.attributes = responseAttributes()
	case "connection":
		r.attributes = connectionAttributes()
	case "upstream":
		r.attributes = upstreamAttributes()
	case "source":
		r.attributes = addressAttributes(func(i *flow.Info) flow.Addr { return i.Remote })
	case "destination":
		r.attributes = addressAttributes(func(i *flow.Info) flow.Addr { return i.Local })
	case "xds":
		r.attributes = xdsAttributes()
	case "node":
		r.attributes = nodeAttributes()
	case "metadata":
		r.attributes = map[string]getter{"filter_metadata": func(s *Subject) (any, bool) {
			return metadata(s.Info.DynamicMetadata), true
		}}
	case "filter_state":
		r.any = stateOf
	case "upstream_filter_state":
		r.any = func(name string) getter {
			return func(s *Subject) (any, bool) {
				if p := s.Info.PeerState(name); p != nil && p == s.Info.UpstreamPeer {
					return workload{p}, true
				}
				return nil, false
			}
		}
	default:
		return root{}, false
	}
	return r, true
}

// peerOf is the peer by the name that Istio's proxies had before 1.24.
func peerOf(name string) (node, bool) {
	if name == peer.DownstreamState || name == peer.UpstreamState {
		return attribute{name, stateOf(name)}, true
	}
	return nil, false
}

// stateOf is an object of the filter state.
func stateOf(name string) getter {
	return func(s *Subject) (any, bool) {
		if text, ok := s.Info.FilterState[name]; ok {
			return text, true
		}
		if p := s.Info.PeerState(name); p != nil {
			return workload{p}, true
		}
		return nil, false
	}
}

// workload is a peer: the fields of Envoy's Struct of it.
type workload struct{ *peer.Peer }

func (w workload) get(name string) (any, bool) {
	all := w.Workload()
	if name == "labels" {
		labels := all.LabelMap()
		return texts(labels), labels != nil
	}
	if name == "type" && all.Kind == "" {
		return nil, false
	}
	v, _ := all.Field(name)
	return v, v != ""
}

// texts are values by name.
type texts map[string]string

func (t texts) get(name string) (any, bool) {
	v, ok := t[name]
	return v, ok
}

func (t texts) size() int { return len(t) }

// present is a value that is there unless it is "".
func present(v string) (any, bool) { return v, v != "" }

// connectionAttributes are of the client's connection.
func connectionAttributes() map[string]getter {
	all := tlsAttributes(func(i *flow.Info) *tlsmux.State { return i.Downstream })
	all["mtls"] = func(s *Subject) (any, bool) {
		return s.Info.Downstream != nil && len(s.Info.Downstream.Peer) > 0, true
	}
	all["requested_server_name"] = func(s *Subject) (any, bool) { return s.Info.SNI, true }
	all["id"] = func(s *Subject) (any, bool) { return s.Info.ID, true }
	all["termination_details"] = func(s *Subject) (any, bool) { return present(s.Info.TerminationDetails) }
	all["transport_failure_reason"] = func(s *Subject) (any, bool) { return present(s.Info.DownstreamFailure) }
	return all
}

// upstreamAttributes are of the host that was chosen.
func upstreamAttributes() map[string]getter {
	all := tlsAttributes(func(i *flow.Info) *tlsmux.State { return i.Upstream })
	for name, get := range addressAttributes(func(i *flow.Info) flow.Addr { return i.UpstreamHost }) {
		all[name] = get
	}
	all["local_address"] = func(s *Subject) (any, bool) { return present(addressText(s.Info.UpstreamLocal)) }
	all["transport_failure_reason"] = func(s *Subject) (any, bool) {
		return s.Info.UpstreamFailure, s.Info.UpstreamFailure != "" || addressText(s.Info.UpstreamHost) != ""
	}
	all["request_attempt_count"] = func(s *Subject) (any, bool) {
		if s.Info.HTTP != nil {
			return uint64(max(s.Info.HTTP.Attempts, 0)), true
		}
		return uint64(max(s.Info.UpstreamAttempts, 0)), true
	}
	return all
}

// tlsAttributes are those of a connection with TLS. Names in a certificate that
// was not verified are not shown.
func tlsAttributes(of func(*flow.Info) *tlsmux.State) map[string]getter {
	leaf := func(show func(*x509.Certificate) string) getter {
		return func(s *Subject) (any, bool) {
			state := of(s.Info)
			if state == nil || !state.PeerVerified || len(state.Peer) == 0 {
				return nil, false
			}
			return present(show(state.Peer[0]))
		}
	}
	local := func(show func(*x509.Certificate) string) getter {
		return func(s *Subject) (any, bool) {
			state := of(s.Info)
			if state == nil || state.Local == nil {
				return nil, false
			}
			return present(show(state.Local))
		}
	}
	return map[string]getter{
		"tls_version": func(s *Subject) (any, bool) {
			if state := of(s.Info); state != nil {
				return tlsmux.VersionName(state.Version), true
			}
			return nil, false
		},
		"subject_local_certificate":      local(subject),
		"subject_peer_certificate":       leaf(subject),
		"dns_san_local_certificate":      local(firstDNS),
		"dns_san_peer_certificate":       leaf(firstDNS),
		"uri_san_local_certificate":      local(firstURI),
		"uri_san_peer_certificate":       leaf(firstURI),
		"sha256_peer_certificate_digest": leaf(digest),
	}
}

func subject(c *x509.Certificate) string { return c.Subject.String() }

func firstDNS(c *x509.Certificate) string {
	if len(c.DNSNames) == 0 {
		return ""
	}
	return c.DNSNames[0]
}

func firstURI(c *x509.Certificate) string {
	if len(c.URIs) == 0 {
		return ""
	}
	return c.URIs[0].String()
}

func digest(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// addressAttributes are address and port.
func addressAttributes(of func(*flow.Info) flow.Addr) map[string]getter {
	return map[string]getter{
		"address": func(s *Subject) (any, bool) { return present(addressText(of(s.Info))) },
		"port": func(s *Subject) (any, bool) {
			a := of(s.Info)
			return int64(a.Port()), a.IsIP()
		},
	}
}

func addressText(a flow.Addr) string {
	if !a.IsIP() && a.Path == "" {
		return ""
	}
	return a.String()
}

// atoi is the number that a header has.
func atoi(text string) (any, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n, err == nil
}
