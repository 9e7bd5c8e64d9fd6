package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tracking asks the kernel's connection tracking where a redirected UDP packet
// was sent to. That takes CAP_NET_ADMIN: without it, it is asked once.
type tracking struct {
	log *slog.Logger

	mu   sync.Mutex // guards all below
	conn asker      // nil before the first question, and when it is off
	off  bool
	dial func() (asker, error)
}

// asker is a netlink socket.
type asker interface {
	Execute(netlink.Message) ([]netlink.Message, error)
	SetDeadline(time.Time) error
	Close() error
}

func newTracking(log *slog.Logger) *tracking {
	return &tracking{log: log, dial: func() (asker, error) { return netlink.Dial(unix.NETLINK_NETFILTER, nil) }}
}

// zones are those in which the connections may be: the application's own, where
// Istio's rules put its DNS (tools/istio-iptables), and that without a number.
func zones() [2]uint16 { return [2]uint16{2, 0} }

// trackingTimeout bounds a question to the kernel, which answers at once.
const trackingTimeout = time.Second

// original is where the flow whose answers go from local to from was sent to.
func (t *tracking) original(from, local netip.AddrPort) (netip.AddrPort, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return netip.AddrPort{}, false
	}
	for _, zone := range zones() {
		to, err := t.ask(from, local, zone)
		switch {
		case err == nil:
			return to, true
		case errors.Is(err, unix.ENOENT):
			continue
		}
		t.log.Info("the resolvers that clients meant cannot be known over UDP: those of resolv.conf are asked", "reason", err)
		t.close()
		return netip.AddrPort{}, false
	}
	return netip.AddrPort{}, false
}

// open needs mu.
func (t *tracking) open() bool {
	if t.conn != nil || t.off {
		return t.conn != nil
	}
	conn, err := t.dial()
	if err != nil {
		t.log.Info("the resolvers that clients meant cannot be known over UDP: those of resolv.conf are asked", "reason", err)
		t.off = true
		return false
	}
	t.conn = conn
	return true
}

// close ends it for good. It needs mu.
func (t *tracking) close() {
	if t.conn != nil {
		t.conn.Close()
	}
	t.conn, t.off = nil, true
}

// Close ends it for good.
func (t *tracking) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
}

func (t *tracking) ask(from, local netip.AddrPort, zone uint16) (netip.AddrPort, error) {
	m, err := trackingQuery(from, local, zone)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if err := t.conn.SetDeadline(time.Now().Add(trackingTimeout)); err != nil {
		return netip.AddrPort{}, err
	}
	answers, err := t.conn.Execute(m)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range answers {
		if to, ok, err := trackedDestination(a.Data); err != nil || ok {
			return to, err
		}
	}
	return netip.AddrPort{}, unix.ENOENT
}

// Attributes of connection tracking, and of its tuples: Linux's
// nfnetlink_conntrack.h.
const (
	ctGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET

	ctaTupleOrig, ctaTupleReply, ctaZone = 1, 2, 18
	ctaTupleIP, ctaTupleProto            = 1, 2
	ctaProtoNum, ctaSrcPort, ctaDstPort  = 1, 2, 3
	// The addresses: CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST.
	ctaV4Src, ctaV4Dst, ctaV6Src, ctaV6Dst = 1, 2, 3, 4

	nfHeader = 4 // struct nfgenmsg
)

// trackingQuery asks for the UDP flow whose answers go from local to from.
func trackingQuery(from, local netip.AddrPort, zone uint16) (netlink.Message, error) {
	family, src, dst := byte(unix.AF_INET), uint16(ctaV4Src), uint16(ctaV4Dst)
	if local.Addr().Is6() {
		family, src, dst = unix.AF_INET6, ctaV6Src, ctaV6Dst
	}
	if local.Addr().Is6() != from.Addr().Is6() {
		return netlink.Message{}, fmt.Errorf("a packet from %s to %s", from, local)
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(ctaTupleReply, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctaTupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(src, local.Addr().AsSlice())
			e.Bytes(dst, from.Addr().AsSlice())
			return nil
		})
		e.Nested(ctaTupleProto, func(e *netlink.AttributeEncoder) error {
			e.Uint8(ctaProtoNum, unix.IPPROTO_UDP)
			e.Uint16(ctaSrcPort, local.Port())
			e.Uint16(ctaDstPort, from.Port())
			return nil
		})
		return nil
	})
	if zone != 0 {
		e.Uint16(ctaZone, zone)
	}
	attributes, err := e.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	return netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, 0, 0, 0}, attributes...), // NFNETLINK_V0
	}, nil
}

// trackedDestination reads where a flow was sent to; ok is false if it is not
// there.
func trackedDestination(b []byte) (to netip.AddrPort, ok bool, err error) {
	if len(b) < nfHeader {
		return to, false, fmt.Errorf("an answer of %d bytes", len(b))
	}
	d, err := netlink.NewAttributeDecoder(b[nfHeader:])
	if err != nil {
		return to, false, err
	}
	d.ByteOrder = binary.BigEndian
	var addr netip.Addr
	var port uint16
	within(d, ctaTupleOrig, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case ctaTupleIP:
			d.Nested(each(func(d *netlink.AttributeDecoder) {
				if d.Type() == ctaV4Dst || d.Type() == ctaV6Dst {
					addr, _ = netip.AddrFromSlice(d.Bytes())
				}
			}))
		case ctaTupleProto:
			d.Nested(each(func(d *netlink.AttributeDecoder) {
				if d.Type() == ctaDstPort {
					port = d.Uint16()
				}
			}))
		}
	})
	if err := d.Err(); err != nil {
		return to, false, err
	}
	return netip.AddrPortFrom(addr, port), addr.IsValid() && port != 0, nil
}

// within reads the attributes in those of type n.
func within(d *netlink.AttributeDecoder, n uint16, read func(*netlink.AttributeDecoder)) {
	for d.Next() {
		if d.Type() == n {
			d.Nested(each(read))
		}
	}
}

// each reads attributes one by one; the decoder keeps what is wrong with them.
func each(read func(*netlink.AttributeDecoder)) func(*netlink.AttributeDecoder) error {
	return func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			read(d)
		}
		return nil
	}
}
