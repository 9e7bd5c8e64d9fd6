package decode

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/config"
)

// duration is v, or def if it is unset. One below zero or out of range is
// refused.
func duration(v *durationpb.Duration, def time.Duration, place at) time.Duration {
	if v == nil {
		return def
	}
	if err := v.CheckValid(); err != nil {
		place.bad("%s is not a valid duration", durationText(v.ProtoReflect()))
		return def
	}
	d := v.AsDuration()
	if d < 0 || int64(d/time.Second) != v.GetSeconds() {
		place.bad("%s is out of range: a duration is from 0s to 292 years", durationText(v.ProtoReflect()))
		return def
	}
	return d
}

func u32(v *wrapperspb.UInt32Value, def uint32) uint32 {
	if v == nil {
		return def
	}
	return v.GetValue()
}

func u64(v *wrapperspb.UInt64Value, def uint64) uint64 {
	if v == nil {
		return def
	}
	return v.GetValue()
}

func truth(v *wrapperspb.BoolValue, def bool) bool {
	if v == nil {
		return def
	}
	return v.GetValue()
}

// port refuses what does not fit 16 bits.
func port(v uint32, place at) uint16 {
	if v > 65535 {
		place.bad("%d is not a port: it is at most 65535", v)
		return 0
	}
	return uint16(v)
}

// addressUse says what an address may be.
type addressUse int

const (
	ipOrPipe addressUse = iota
	ipOrPipeOrName
	ipOnly
)

func (d *decoder) address(a *corev3.Address, use addressUse, place at) config.Address {
	switch v := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		return d.socketAddress(v.SocketAddress, use, place.in("socket_address"))
	case *corev3.Address_Pipe:
		in := place.in("pipe")
		path := v.Pipe.GetPath()
		switch {
		case use == ipOnly:
			in.bad("is not supported by outrider: an IP address is needed here")
		case len(path) > maxPipe || strings.ContainsRune(path, 0):
			in.in("path").bad("%q is not a socket's path: it has at most %d bytes, none of them 0", shorten(path), maxPipe)
		}
		if strings.HasPrefix(path, "@") && v.Pipe.GetMode() != 0 {
			in.in("mode").bad("0%o: a socket in the abstract namespace has no mode", v.Pipe.GetMode())
		}
		return config.Address{Pipe: path, PipeMode: v.Pipe.GetMode()}
	case *corev3.Address_EnvoyInternalAddress:
		place.in("envoy_internal_address").bad("is not supported by outrider")
	case nil:
		place.bad("one of socket_address, pipe must be set")
	}
	return config.Address{}
}

// maxPipe is the longest path of a unix socket: sun_path has 108 bytes, one of
// them the end (unix(7)).
const maxPipe = 107

func (d *decoder) socketAddress(s *corev3.SocketAddress, use addressUse, place at) config.Address {
	out := config.Address{IPv4Compat: s.GetIpv4Compat()}
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		place.in("protocol").bad("%s is not supported by outrider", s.GetProtocol())
	}
	p := port(s.GetPortValue(), place.in("port_value"))
	ip, err := netip.ParseAddr(s.GetAddress())
	switch {
	case err == nil:
		out.AddrPort = netip.AddrPortFrom(ip, p)
		if out.IPv4Compat && ip != netip.IPv6Unspecified() && !ip.Is4In6() {
			place.in("ipv4_compat").bad("is for \"::\" and IPv4 addresses in IPv6, which %q is not", s.GetAddress())
		}
	case use == ipOrPipeOrName && s.GetAddress() != "":
		out.Host, out.Port = s.GetAddress(), p
	default:
		place.in("address").bad("%q is not an IP address", shorten(s.GetAddress()))
	}
	return out
}

// cidr is c with its host bits cleared.
func (d *decoder) cidr(c *corev3.CidrRange, place at) netip.Prefix {
	ip, err := netip.ParseAddr(c.GetAddressPrefix())
	if err != nil || ip.Zone() != "" {
		place.in("address_prefix").bad("%q is not an address", shorten(c.GetAddressPrefix()))
		return netip.Prefix{}
	}
	length := c.GetPrefixLen().GetValue()
	if length > uint32(ip.BitLen()) {
		place.in("prefix_len").bad("%d is longer than the %d bits of %s", length, ip.BitLen(), ip)
		return netip.Prefix{}
	}
	return netip.PrefixFrom(ip, int(length)).Masked()
}

func (d *decoder) cidrs(list []*corev3.CidrRange, name string, place at) []netip.Prefix {
	var out []netip.Prefix
	for i, c := range list {
		if p := d.cidr(c, place.item(name, i)); p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

func (d *decoder) keepalive(k *corev3.TcpKeepalive, place at) *config.Keepalive {
	if k == nil {
		return nil
	}
	return &config.Keepalive{
		Probes:   k.GetKeepaliveProbes().GetValue(),
		Time:     time.Duration(k.GetKeepaliveTime().GetValue()) * time.Second,
		Interval: time.Duration(k.GetKeepaliveInterval().GetValue()) * time.Second,
	}
}

func (d *decoder) socketOptions(list []*corev3.SocketOption, place at) []config.SocketOption {
	var out []config.SocketOption
	for i, o := range list {
		in := place.item("socket_options", i)
		one := config.SocketOption{Level: int(o.GetLevel()), Name: int(o.GetName()), Int: int(o.GetIntValue()), State: config.SocketState(o.GetState())}
		if v, ok := o.GetValue().(*corev3.SocketOption_BufValue); ok {
			one.Buf = append([]byte{}, v.BufValue...)
		}
		if one.Int != int(int32(one.Int)) {
			in.in("int_value").bad("%d does not fit 32 bits", one.Int)
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) bindConfig(b *corev3.BindConfig, place at) config.BindConfig {
	var out config.BindConfig
	if b == nil {
		return out
	}
	if s := b.GetSourceAddress(); s != nil {
		out.Source = d.socketAddress(s, ipOnly, place.in("source_address")).AddrPort
	}
	for i, e := range b.GetExtraSourceAddresses() {
		in := place.item("extra_source_addresses", i)
		out.Extra = append(out.Extra, d.socketAddress(e.GetAddress(), ipOnly, in.in("address")).AddrPort)
	}
	for i, s := range b.GetAdditionalSourceAddresses() {
		out.Extra = append(out.Extra, d.socketAddress(s, ipOnly, place.item("additional_source_addresses", i)).AddrPort)
	}
	if len(out.Extra) > 0 && b.GetSourceAddress() == nil {
		place.bad("extra_source_addresses need a source_address")
	}
	for _, extra := range out.Extra {
		if extra.IsValid() && out.Source.IsValid() && extra.Addr().Is4() == out.Source.Addr().Is4() {
			place.bad("extra source address %s must be of the other family than source_address %s", extra.Addr(), out.Source.Addr())
		}
	}
	out.Freebind = b.GetFreebind().GetValue()
	out.Options = d.socketOptions(b.GetSocketOptions(), place)
	return out
}

func locality(l *corev3.Locality) config.Locality {
	return config.Locality{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()}
}

func (d *decoder) metadata(m *corev3.Metadata) map[string]*structpb.Struct {
	return m.GetFilterMetadata()
}

// ppm is a FractionalPercent in millionths, at most all of them.
func ppm(p *typev3.FractionalPercent) uint32 {
	return uint32(min(uint64(p.GetNumerator())*uint64(perUnit(p)), 1_000_000))
}

// perUnit is what 1 of p's numerator is in a million.
func perUnit(p *typev3.FractionalPercent) uint32 {
	return map[typev3.FractionalPercent_DenominatorType]uint32{
		typev3.FractionalPercent_HUNDRED: 10_000, typev3.FractionalPercent_TEN_THOUSAND: 100, typev3.FractionalPercent_MILLION: 1,
	}[p.GetDenominator()]
}

// runtimeNumber is what the runtime says of key, def if it says nothing or
// there is no such key.
func (d *decoder) runtimeNumber(key string, def uint32) uint32 {
	if v, err := strconv.ParseUint(d.runtime[key], 10, 32); key != "" && err == nil {
		return uint32(v)
	}
	return def
}

// runtimeFloat is runtimeNumber for numbers with a fraction.
func (d *decoder) runtimeFloat(key string, def float64) float64 {
	if v, err := strconv.ParseFloat(d.runtime[key], 64); key != "" && err == nil {
		return v
	}
	return def
}
