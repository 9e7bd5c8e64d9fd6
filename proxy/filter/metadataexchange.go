package filter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/istio/peer"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// The sides of an exchange; the filter state of a peer begins with them.
const (
	downstreamSide = "downstream"
	upstreamSide   = "upstream"
	peerIDSuffix   = "_peer_id" // after peer.WASMPrefix and the side: of Istio's own proxy
)

// metadataExchange is istio.metadata_exchange on the downstream side: where
// TLS has negotiated its protocol, each side begins with one frame about
// itself.
//
// Our frame goes out at once, so that neither side waits for the other, and a
// server that speaks first is heard. The peer's is read by the relay, before
// the first application byte of that direction: its facts are there for access
// logs, but not yet for RBAC. Envoy writes its frame at the first data event,
// and RBAC behind it sees the facts.
type metadataExchange struct {
	name string
	side exchangeSide
}

// exchangeSide is the filter on one side: downstream, or upstream in a
// cluster.
type exchangeSide struct {
	direction string
	cfg       *config.MetadataExchange
	frame     []byte
	stats     *exchangeStats
	log       *slog.Logger
}

type exchangeStats struct {
	alpnFound, alpnNotFound, noInitialHeader, noHeader, added *stats.Counter
}

func newExchangeSide(direction string, cfg *config.MetadataExchange, d *Deps) (exchangeSide, error) {
	scope := d.Stats.Scope("metadata_exchange") // of the server, for both sides, as in Envoy
	if cfg.Protocol == "" {
		return exchangeSide{}, errors.New("protocol: it is empty")
	}
	frame, err := frameOf(d.Node, cfg.AdditionalLabels)
	return exchangeSide{
		direction: direction, cfg: cfg, frame: frame, log: d.Log,
		stats: &exchangeStats{
			alpnFound: scope.Counter("alpn_protocol_found"), alpnNotFound: scope.Counter("alpn_protocol_not_found"),
			noInitialHeader: scope.Counter("initial_header_not_found"), noHeader: scope.Counter("header_not_found"),
			added: scope.Counter("metadata_added"),
		},
	}, err
}

func newMetadataExchange(name string, cfg *config.MetadataExchange, d *Deps) (*metadataExchange, error) {
	side, err := newExchangeSide(downstreamSide, cfg, d)
	return &metadataExchange{name: name, side: side}, err
}

func (m *metadataExchange) admit(_ context.Context, c *Conn) (func(), error) {
	x, err := m.side.begin(c, c.Conn, c.Info.Downstream)
	if err != nil {
		return nil, flow.End(flow.StageNetworkFilter, 0, err)
	}
	if x != nil {
		c.prologue = x.prologue
	}
	return nil, nil
}

func (m *metadataExchange) explain(info *flow.Info) Verdict {
	v := Verdict{Filter: m.name, Type: "metadata_exchange"}
	if negotiated(info.Downstream) == m.side.cfg.Protocol {
		v.Reason = "exchanges metadata with the client"
	} else {
		v.Reason = fmt.Sprintf("passes: the negotiated protocol is %q, not %q", negotiated(info.Downstream), m.side.cfg.Protocol)
	}
	return v
}

func negotiated(s *tlsmux.State) string {
	if s == nil {
		return ""
	}
	return s.ALPN
}

// beginUpstream runs the cluster's filters on a connection to it.
func (p *tcpProxy) beginUpstream(c *Conn, target upstream, up *leg) error {
	for _, f := range target.filters() {
		if f.MetadataExchange == nil || up.exchange != nil {
			return flow.End(flow.StageCluster, 0, fmt.Errorf("cluster %q: the filter %q cannot be an upstream filter here", target.name(), f.Name))
		}
		side, err := newExchangeSide(upstreamSide, f.MetadataExchange, p.deps)
		if err == nil {
			up.exchange, err = side.begin(c, up.Conn, up.state)
		}
		if err != nil {
			return flow.End(flow.StageConnect, flow.UpstreamConnectionFailure, err)
		}
	}
	return nil
}

// exchange is one side of one connection.
type exchange struct {
	*exchangeSide
	conn *Conn
}

// begin sends our frame if the protocol was negotiated on s; nil if it was
// not.
func (e *exchangeSide) begin(c *Conn, to relay.Conn, s *tlsmux.State) (*exchange, error) {
	x := &exchange{e, c}
	if negotiated(s) != e.cfg.Protocol {
		e.stats.alpnNotFound.Inc()
		x.notFound()
		return nil, nil
	}
	e.stats.alpnFound.Inc()
	if _, err := to.Write(e.frame); err != nil {
		return nil, fmt.Errorf("metadata exchange: %w", err)
	}
	e.stats.added.Inc()
	return x, nil
}

// notFound says that there is no peer. Envoy keeps the filter state of the
// upstream connection apart, so there is none of that.
func (x *exchange) notFound() {
	x.conn.mu.Lock()
	defer x.conn.mu.Unlock()
	if x.direction == upstreamSide {
		x.conn.Info.NoUpstreamPeer = true
		return
	}
	x.conn.Info.SetState(peer.NotFoundState, "true")
}

// prologue reads the peer's frame; what it returns belongs to the application.
func (x *exchange) prologue(from relay.Conn) ([]byte, error) {
	got, err := receiveFrame(from)
	if err != nil {
		return nil, fmt.Errorf("metadata exchange: %w", err)
	}
	switch got.state {
	case frameFound:
		x.found(got)
	case noFrame:
		x.stats.noInitialHeader.Inc()
		x.notFound()
	case badFrame:
		x.stats.noHeader.Inc()
		x.notFound()
	}
	if got.state != frameFound {
		x.log.Debug("peer sent no metadata", "connection_id", x.conn.Info.ID, "side", x.direction)
	}
	return got.pass, nil
}

func (x *exchange) found(got receivedFrame) {
	x.conn.mu.Lock()
	defer x.conn.mu.Unlock()
	info := x.conn.Info
	if s := got.values.GetFields()[peer.MetadataHeader]; s != nil {
		p := peer.New(peer.FromStruct(s.GetStructValue(), x.cfg.AdditionalLabels))
		if x.direction == downstreamSide {
			info.DownstreamPeer = p
		} else {
			info.UpstreamPeer = p
		}
	}
	if id := got.values.GetFields()[peer.MetadataIDHeader].GetStringValue(); id != "" {
		info.SetState(peer.WASMPrefix+x.direction+peerIDSuffix, id)
	}
}

// checkOrder refuses what could not work: RBAC on facts of a peer that come
// only with its first bytes, and two exchanges on one side.
func checkOrder(cfg []*config.NetworkFilter) error {
	var errs []error
	exchanges := 0
	for i, f := range cfg {
		switch {
		case f.MetadataExchange != nil:
			if exchanges++; exchanges > 1 {
				errs = append(errs, fmt.Errorf("filters[%d] %q: there is a metadata exchange already", i, f.Name))
			}
		case f.RBAC != nil:
			for _, key := range stateKeys(f.RBAC) {
				if isPeerState(key) {
					errs = append(errs, fmt.Errorf("filters[%d] %q: filter_state %q comes with the peer's first bytes, after this filter has decided", i, f.Name, key))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func isPeerState(key string) bool {
	key = strings.TrimSuffix(strings.TrimPrefix(key, peer.WASMPrefix), peer.ObjectSuffix)
	switch key {
	case peer.NotFoundState, peer.DownstreamState, peer.UpstreamState, downstreamSide + peerIDSuffix, upstreamSide + peerIDSuffix:
		return true
	}
	return false
}

// stateKeys are the filter state objects that the rules ask for.
func stateKeys(cfg *config.RBAC) []string {
	var keys []string
	var walk func(*config.Principal)
	walk = func(p *config.Principal) {
		if p == nil {
			return
		}
		if p.FilterState != nil {
			keys = append(keys, p.FilterState.Key)
		}
		for _, q := range p.And {
			walk(q)
		}
		for _, q := range p.Or {
			walk(q)
		}
		walk(p.Not)
	}
	for _, rules := range []*config.RBACRules{cfg.Rules, cfg.Shadow} {
		if rules == nil {
			continue
		}
		for _, p := range rules.Policies {
			for _, q := range p.Principals {
				walk(q)
			}
		}
	}
	return keys
}
