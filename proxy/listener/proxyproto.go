package listener

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	proxyproto "github.com/pires/go-proxyproto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// The forms of a PROXY header (the PROXY protocol's specification, sections
// 2.1 and 2.2).
const (
	proxyV1Prefix = "PROXY "
	proxyV1Max    = 107 // bytes, with CRLF
	proxyV2Prefix = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV2Header = 16
)

var errProxyHeader = errors.New("bad PROXY header")

// proxyProtocol reads a PROXY header and consumes it, and nothing more
// (Envoy: proxy_protocol).
func (i *inspection) proxyProtocol(cfg *config.ProxyProtocol) error {
	size, version, err := i.proxyHeader(cfg)
	if err != nil {
		i.stats.ProxyProtoError.Inc()
		return err
	}
	if size == 0 {
		return nil
	}
	h, err := parseProxyHeader(i.peek.bytes()[:size])
	if err != nil {
		i.stats.ProxyProtoError.Inc()
		return fmt.Errorf("%w, version %d: %w", errProxyHeader, version, err)
	}
	if err := i.applyProxyHeader(cfg, h); err != nil {
		i.stats.ProxyProtoError.Inc()
		return err
	}
	return i.peek.discard(size)
}

// proxyHeader waits for the whole header; a size of 0 means that there is
// none and that this is allowed.
func (i *inspection) proxyHeader(cfg *config.ProxyProtocol) (size, version int, err error) {
	for want := 1; ; want = i.peek.n + 1 {
		if err := i.more(want); err != nil {
			return 0, 0, err
		}
		size, version, decided := proxyHeaderSize(i.peek.bytes())
		switch {
		case version == 1 && cfg.DisallowV1, version == 2 && cfg.DisallowV2:
			if cfg.AllowWithout {
				return 0, 0, nil
			}
			return 0, 0, fmt.Errorf("%w: version %d is disallowed", errProxyHeader, version)
		case version == 0 && decided && cfg.AllowWithout:
			return 0, 0, nil
		case version == 0 && decided:
			return 0, 0, fmt.Errorf("%w: there is none", errProxyHeader)
		case !decided && i.peek.n < maxPeek:
			continue
		case size > maxPeek || !decided:
			return 0, 0, fmt.Errorf("%w: %d bytes", errProxyHeader, size)
		}
		if err := i.more(size); err != nil {
			return 0, 0, err
		}
		return size, version, nil
	}
}

// proxyHeaderSize tells the version (0: none) and the header's length from the
// first bytes; it is not decided while more bytes are needed.
func proxyHeaderSize(b []byte) (size, version int, decided bool) {
	if n := min(len(b), len(proxyV2Prefix)); string(b[:n]) == proxyV2Prefix[:n] {
		if len(b) < proxyV2Header {
			return 0, 0, false
		}
		return proxyV2Header + int(binary.BigEndian.Uint16(b[14:])), 2, true
	}
	if n := min(len(b), len(proxyV1Prefix)); string(b[:n]) != proxyV1Prefix[:n] {
		return 0, 0, true
	}
	if len(b) < len(proxyV1Prefix) {
		return 0, 0, false
	}
	if end := bytes.Index(b[:min(len(b), proxyV1Max)], []byte("\r\n")); end >= 0 {
		return end + 2, 1, true
	}
	if len(b) >= proxyV1Max {
		return maxPeek + 1, 1, true
	}
	return 0, 1, false
}

// parseProxyHeader reads exactly b.
func parseProxyHeader(b []byte) (*proxyproto.Header, error) {
	rest := bytes.NewReader(b)
	buffered := bufio.NewReaderSize(rest, len(b)+1)
	h, err := proxyproto.Read(buffered)
	if err != nil {
		return nil, err
	}
	if left := rest.Len() + buffered.Buffered(); left > 0 {
		return nil, fmt.Errorf("%d bytes too many", left)
	}
	return h, nil
}

// applyProxyHeader takes the addresses and TLVs over. LOCAL and UNKNOWN keep
// the socket's own addresses.
func (i *inspection) applyProxyHeader(cfg *config.ProxyProtocol, h *proxyproto.Header) error {
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return nil
	}
	src, srcOK := h.SourceAddr.(*net.TCPAddr)
	dst, dstOK := h.DestinationAddr.(*net.TCPAddr)
	if !srcOK || !dstOK {
		return fmt.Errorf("%w: it is for %T, not for TCP", errProxyHeader, h.SourceAddr)
	}
	i.info.Remote = flow.Addr{AddrPort: unmap(src.AddrPort())}
	local := unmap(dst.AddrPort())
	i.info.LocalRestored = local != i.info.DirectLocal.AddrPort
	i.info.Local = flow.Addr{AddrPort: local}
	if len(cfg.TLVs) == 0 {
		return nil
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return fmt.Errorf("%w: TLVs: %w", errProxyHeader, err)
	}
	for _, tlv := range tlvs {
		for _, rule := range cfg.TLVs {
			if byte(tlv.Type) == rule.Type {
				i.info.SetMetadata(rule.Namespace, rule.Key, structpb.NewStringValue(printable(tlv.Value)))
			}
		}
	}
	return nil
}

// printable is a TLV's value as metadata: text as it is, anything else in hex,
// for a Struct holds UTF-8 only.
func printable(b []byte) string {
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return hex.EncodeToString(b)
		}
	}
	return string(b)
}
