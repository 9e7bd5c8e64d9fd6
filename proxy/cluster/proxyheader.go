package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// proxyHeader makes the PROXY header that goes before everything else, TLS too
// (Envoy: upstream_proxy_protocol).
type proxyHeader struct {
	cfg     *config.UpstreamProxyProtocol
	added   []maker
	tooLong *stats.Counter
}

// maker is a TLV of the configuration, with its format compiled.
type maker struct {
	config.TLV
	make func(*flow.Info) string // nil: Value
}

func (c *Cluster) newProxyHeader(cfg *config.UpstreamProxyProtocol) (*proxyHeader, error) {
	if cfg == nil {
		return nil, nil
	}
	p := &proxyHeader{cfg: cfg, tooLong: c.scope.Scope("upstream").Scope("proxyprotocol").Counter("v2_tlvs_exceed_max_length")}
	var errs []error
	for i, tlv := range cfg.Added {
		one := maker{TLV: tlv}
		if tlv.Format != "" {
			var err error
			if one.make, err = c.opts.Format(tlv.Format, tlv.OmitEmpty); err != nil {
				errs = append(errs, fmt.Errorf("added_tlvs[%d].format_string: %w", i, err))
			}
		}
		p.added = append(p.added, one)
	}
	return p, errors.Join(errs...)
}

// send writes the header for a connection that info describes, or, with nil,
// for one of our own.
func (p *proxyHeader) send(ctx context.Context, raw net.Conn, info *flow.Info, host []config.TLV) error {
	header, err := p.header(raw, info, host)
	if err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = raw.SetWriteDeadline(time.Unix(1, 0)) // it fails only if it is closed
		close(woken)
	})
	_, err = raw.Write(header)
	if !stop() {
		<-woken
		return context.Cause(ctx)
	}
	return err
}

func (p *proxyHeader) header(raw net.Conn, info *flow.Info, host []config.TLV) ([]byte, error) {
	if !p.cfg.V2 {
		return headerV1(raw, info), nil
	}
	if info == nil || !info.Remote.IsIP() || !info.Local.IsIP() {
		return headerV2Local(), nil
	}
	addresses := addressesV2(info.Remote.AddrPort, info.Local.AddrPort)
	tlvs := p.tlvs(info, host)
	if n := len(addresses.bytes) + len(tlvs); n > math.MaxUint16 {
		p.tooLong.Inc()
		return nil, fmt.Errorf("PROXY header: %d bytes of addresses and TLVs, more than %d", n, math.MaxUint16)
	}
	b := append([]byte(nil), signatureV2...)
	b = append(b, versionV2|commandProxy, addresses.family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(addresses.bytes)+len(tlvs)))
	return append(append(b, addresses.bytes...), tlvs...), nil
}

// The parts of a header; source: the PROXY protocol's specification, section 2.
const (
	signatureV2  = "\r\n\r\n\x00\r\nQUIT\n"
	versionV2    = 0x20
	commandLocal = 0x0
	commandProxy = 0x1
	familyTCP4   = 0x11
	familyTCP6   = 0x21
)

// headerV1 has the addresses of the connection itself for one of our own, as
// in Envoy.
func headerV1(raw net.Conn, info *flow.Info) []byte {
	from, to := netAddr(raw.LocalAddr()), netAddr(raw.RemoteAddr())
	if info != nil {
		from, to = info.Remote, info.Local
	}
	if !from.IsIP() || !to.IsIP() {
		return []byte("PROXY UNKNOWN\r\n")
	}
	source, destination := sameFamily(from.AddrPort, to.AddrPort)
	family := "TCP6"
	if source.Addr().Is4() {
		family = "TCP4"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, source.Addr(), destination.Addr(), source.Port(), destination.Port())
}

func headerV2Local() []byte {
	return append([]byte(signatureV2), versionV2|commandLocal, 0, 0, 0)
}

type addressBlock struct {
	family byte
	bytes  []byte
}

func addressesV2(from, to netip.AddrPort) addressBlock {
	from, to = sameFamily(from, to)
	out := addressBlock{family: familyTCP6}
	if from.Addr().Is4() {
		out.family = familyTCP4
	}
	out.bytes = append(out.bytes, from.Addr().AsSlice()...)
	out.bytes = append(out.bytes, to.Addr().AsSlice()...)
	out.bytes = binary.BigEndian.AppendUint16(out.bytes, from.Port())
	out.bytes = binary.BigEndian.AppendUint16(out.bytes, to.Port())
	return out
}

// sameFamily makes both IPv6 if one is: a header has one family. A zone means
// nothing to others.
func sameFamily(a, b netip.AddrPort) (x, y netip.AddrPort) {
	a, b = unmap(a), unmap(b)
	if a.Addr().Is4() != b.Addr().Is4() {
		a = netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
		b = netip.AddrPortFrom(netip.AddrFrom16(b.Addr().As16()), b.Port())
	}
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()), netip.AddrPortFrom(b.Addr().WithZone(""), b.Port())
}

// tlvs are, in the order of their precedence, who the client is, those of the
// endpoint, those of the transport socket, and those that came with the client.
// The first of a type counts against the sources behind it.
func (p *proxyHeader) tlvs(info *flow.Info, host []config.TLV) []byte {
	var out []byte
	seen := map[byte]bool{}
	if p.cfg.Peer {
		seen[config.TLVTypeSSL], seen[config.TLVTypeSPIFFE] = true, true // nobody else may say it
		out = appendPeer(out, info.Downstream)
	}
	for _, tlv := range host {
		if !seen[tlv.Type] {
			seen[tlv.Type] = true
			out = appendTLV(out, tlv.Type, tlv.Value)
		}
	}
	for _, tlv := range p.added {
		if seen[tlv.Type] {
			continue
		}
		seen[tlv.Type] = true
		value := tlv.Value
		if tlv.make != nil {
			value = []byte(tlv.make(info))
		}
		out = appendTLV(out, tlv.Type, value)
	}
	for _, tlv := range info.TLVs {
		if p.cfg.Pass.Has(tlv.Type) && !seen[tlv.Type] {
			out = appendTLV(out, tlv.Type, tlv.Value)
		}
	}
	return out
}

// appendTLV leaves out what no length can say; the header is refused then, for
// it is longer than that as well.
func appendTLV(b []byte, kind byte, value []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(min(len(value), math.MaxUint16)))
	return append(b, value...)
}

// The fields of PP2_TYPE_SSL; source: the specification, section 2.2.6.
const (
	clientSSL      = 0x01 // the client connected over TLS
	clientCertConn = 0x02 // it showed a certificate on this connection
	clientCertSess = 0x04 // it showed one in the TLS session

	sslVersion      = 0x21
	sslCommonName   = 0x22
	sslCipher       = 0x23
	sslSignatureAlg = 0x24
	sslKeyAlg       = 0x25
)

// appendPeer says how the client came, and who it is. Its verify field is 0 only
// for a certificate that was verified, and only such a one has a SPIFFE ID. A
// client without TLS has neither TLV.
func appendPeer(b []byte, s *tlsmux.State) []byte {
	if s == nil {
		return b
	}
	client, verify := byte(clientSSL), uint32(1)
	if len(s.Peer) > 0 {
		client |= clientCertSess
		if !s.Resumed {
			client |= clientCertConn
		}
	}
	if s.PeerVerified && len(s.Peer) > 0 {
		verify = 0
	}
	value := binary.BigEndian.AppendUint32([]byte{client}, verify)
	value = appendTLV(value, sslVersion, []byte(tlsmux.VersionName(s.Version)))
	value = appendTLV(value, sslCipher, []byte(tlsmux.CipherName(s.CipherSuite)))
	if len(s.Peer) > 0 {
		leaf := s.Peer[0]
		if name := leaf.Subject.CommonName; name != "" && verify == 0 {
			value = appendTLV(value, sslCommonName, []byte(name))
		}
		value = appendTLV(value, sslSignatureAlg, []byte(leaf.SignatureAlgorithm.String()))
		value = appendTLV(value, sslKeyAlg, []byte(leaf.PublicKeyAlgorithm.String()))
	}
	b = appendTLV(b, config.TLVTypeSSL, value)
	if verify == 0 && !s.PeerID.IsZero() {
		b = appendTLV(b, config.TLVTypeSPIFFE, []byte(s.PeerID.String()))
	}
	return b
}
