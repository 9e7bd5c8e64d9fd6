package listener

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The forms of a PROXY header; source: the PROXY protocol's specification,
// sections 2.1 and 2.2.
const (
	proxyV1Prefix = "PROXY "
	proxyV1Max    = 108 // bytes, with CRLF; Envoy: MAX_PROXY_PROTO_LEN_V1
	proxyV2Prefix = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV2Header = 16
	tlvHeader     = 3
)

// proxyHeader is what a PROXY header says.
type proxyHeader struct {
	// local says that the connection is the proxy's own, or of an unknown
	// kind: there are no addresses then.
	local               bool
	source, destination netip.AddrPort
	tlvs                []byte // checked; part of what was parsed
}

// proxyVersion tells the version by the first bytes, 0 if there is no header;
// it is not decided while more bytes are needed.
func proxyVersion(b []byte) (version int, decided bool) {
	for v, prefix := range []string{1: proxyV1Prefix, 2: proxyV2Prefix} {
		if n := min(len(b), len(prefix)); v > 0 && string(b[:n]) == prefix[:n] {
			if n < len(prefix) {
				return 0, false
			}
			return v, true
		}
	}
	return 0, true
}

// proxySize is the length of the header that b begins, 0 if that is not known
// yet, and how many bytes are wanted next.
func proxySize(version int, b []byte) (size, want int, err error) {
	if version == 1 {
		if end := bytes.Index(b[:min(len(b), proxyV1Max)], []byte("\r\n")); end >= 0 {
			return end + 2, end + 2, nil
		}
		if len(b) >= proxyV1Max {
			return 0, 0, fmt.Errorf("no end of line in %d bytes", proxyV1Max)
		}
		return 0, len(b) + 1, nil
	}
	if len(b) < proxyV2Header {
		return 0, proxyV2Header, nil
	}
	if _, err := addressSize(b); err != nil {
		return 0, 0, err
	}
	size = proxyV2Header + int(binary.BigEndian.Uint16(b[14:]))
	if size > maxPeek {
		return 0, 0, fmt.Errorf("%d bytes, more than %d", size, maxPeek)
	}
	return size, size, nil
}

// parseProxyHeader reads b, which is exactly as long as proxySize says.
func parseProxyHeader(version int, b []byte) (proxyHeader, error) {
	parse := parseProxyV2
	if version == 1 {
		parse = parseProxyV1
	}
	h, err := parse(b)
	if err != nil || h.local {
		return h, err
	}
	for _, a := range []netip.Addr{h.source.Addr(), h.destination.Addr()} {
		if a.IsUnspecified() || a.IsMulticast() || a == noUnicast {
			return h, fmt.Errorf("%s is no address of a host", a)
		}
	}
	return h, nil
}

// noUnicast is IPv4's broadcast address.
var noUnicast = netip.AddrFrom4([4]byte{255, 255, 255, 255}) //nolint:gochecknoglobals // never changed

// parseProxyV1 reads a line. As in Envoy, blanks at its end do not count, and
// a port may have leading zeros.
func parseProxyV1(b []byte) (proxyHeader, error) {
	words := strings.Split(strings.TrimRight(string(b), " \t\v\f\r\n"), " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" {
		return proxyHeader{local: true}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return proxyHeader{}, fmt.Errorf("%q is not PROXY TCP4|TCP6 and two addresses and ports", words)
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		addr, err := netip.ParseAddr(words[2+i])
		if err != nil {
			return proxyHeader{}, fmt.Errorf("%q is no address", words[2+i])
		}
		if addr.Is4() != (words[1] == "TCP4") || addr.Zone() != "" {
			return proxyHeader{}, fmt.Errorf("%s is no address for %s", addr, words[1])
		}
		port, err := strconv.ParseUint(words[4+i], 10, 16)
		if err != nil {
			return proxyHeader{}, fmt.Errorf("%q is no port", words[4+i])
		}
		ends[i] = netip.AddrPortFrom(addr, uint16(port))
	}
	return proxyHeader{source: ends[0], destination: ends[1]}, nil
}

// Fields of the binary form: the specification, section 2.2.
const (
	commandLocal   = 0x20
	commandProxy   = 0x21
	familyIPv4     = 1
	familyIPv6     = 2
	protocolStream = 1
	protocolDgram  = 2
)

// addressSize is how many bytes the two addresses and ports take. It checks
// the fixed part of b. LOCAL has none that count.
func addressSize(b []byte) (int, error) {
	command, family, protocol := b[12], b[13]>>4, b[13]&0xf
	size := 0
	switch {
	case command == commandLocal:
		return 0, nil
	case command != commandProxy:
		return 0, fmt.Errorf("version and command %#02x", command)
	case protocol != protocolStream && protocol != protocolDgram:
		return 0, fmt.Errorf("transport protocol %d", protocol)
	case family == familyIPv4:
		size = 2 * (4 + 2)
	case family == familyIPv6:
		size = 2 * (16 + 2)
	default:
		return 0, fmt.Errorf("address family %d, which is not IP", family)
	}
	if n := int(binary.BigEndian.Uint16(b[14:])); n < size {
		return 0, fmt.Errorf("%d bytes for addresses that take %d", n, size)
	}
	return size, nil
}

func parseProxyV2(b []byte) (proxyHeader, error) {
	size, err := addressSize(b)
	if err != nil {
		return proxyHeader{}, err
	}
	if size == 0 {
		return proxyHeader{local: true}, nil
	}
	body := b[proxyV2Header:]
	length := size/2 - 2 // of one address
	ports := body[2*length:]
	source, _ := netip.AddrFromSlice(body[:length])
	destination, _ := netip.AddrFromSlice(body[length : 2*length])
	h := proxyHeader{
		source:      netip.AddrPortFrom(source, binary.BigEndian.Uint16(ports)),
		destination: netip.AddrPortFrom(destination, binary.BigEndian.Uint16(ports[2:])),
		tlvs:        body[size:],
	}
	for rest := h.tlvs; len(rest) > 0; {
		if _, _, rest, err = nextTLV(rest); err != nil {
			return proxyHeader{}, err
		}
	}
	return h, nil
}

var errTLV = errors.New("a TLV that does not end with the header")

// nextTLV takes the first TLV off b.
func nextTLV(b []byte) (kind byte, value, rest []byte, err error) {
	if len(b) < tlvHeader {
		return 0, nil, nil, errTLV
	}
	n := tlvHeader + int(binary.BigEndian.Uint16(b[1:]))
	if n > len(b) {
		return 0, nil, nil, errTLV
	}
	return b[0], b[tlvHeader:n], b[n:], nil
}
