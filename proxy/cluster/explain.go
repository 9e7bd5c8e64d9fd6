package cluster

// Explanation is which host and transport socket a connection would meet.
type Explanation struct {
	Cluster string `json:"cluster"`
	// Host is "" if there is none, and then Reason says why.
	Host     string `json:"host,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Health   string `json:"health,omitempty"`
	Hosts    int    `json:"hosts"`
	Healthy  int    `json:"healthy"`
	Priority int    `json:"priority"`
	// Panic says that health was not looked at.
	Panic bool `json:"panic,omitempty"`
	// Socket is the chosen transport socket match, "" for the cluster's own
	// transport_socket; Transport its extension.
	Socket    string        `json:"transport_socket_match,omitempty"`
	Transport string        `json:"transport_socket"`
	TLS       bool          `json:"tls"`
	SNI       string        `json:"sni,omitempty"`
	ALPN      []string      `json:"alpn,omitempty"`
	Trials    []SocketTrial `json:"transport_socket_trials,omitempty"`
}

// Explain is what Connect would do with req now. It changes nothing. Where
// the choice is random, Connect may choose another host.
func (c *Cluster) Explain(req Request) Explanation {
	s := c.snap.Load()
	got := c.pick(&req, true)
	e := Explanation{
		Cluster: c.cfg.Name, Hosts: len(s.hosts), Healthy: s.healthy,
		Priority: got.priority, Panic: got.panicked,
	}
	if got.host == nil {
		e.Reason = c.noHost(&req).Error()
		return e
	}
	spec := got.host.spec.Load()
	e.Host, e.Hostname, e.Health = got.host.String(), spec.hostname, got.host.Flags()
	match := MatchSocket(c.cfg.SocketMatches, spec.endpoint.Metadata, spec.locality.Metadata, true)
	e.Socket, e.Trials = match.Name, match.Trials
	socket := c.socketAt(match.Index)
	e.Transport, e.TLS = socket.cfg.Name, socket.tls
	if socket.tls {
		e.SNI, e.ALPN = socket.cfg.TLS.SNI, socket.cfg.TLS.ALPN
		if socket.cfg.TLS.AutoHostSNI && spec.hostname != "" {
			e.SNI = spec.hostname
		}
	}
	return e
}
