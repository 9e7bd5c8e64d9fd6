package proxy

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// QueryText is a Query as flags or URL parameters give it.
type QueryText struct {
	Listener, Destination, Source, SNI, Peer string
	ALPN                                     []string
	TLS                                      bool
}

// Parse makes it a Query. Peer is a SPIFFE ID, or a PEM file.
func (t QueryText) Parse() (Query, error) {
	q := Query{Listener: t.Listener, SNI: t.SNI, ALPN: t.ALPN}
	q.TLS = t.TLS || t.SNI != "" || len(t.ALPN) > 0 || t.Peer != ""
	var err error
	if q.Destination, err = addrPort("destination", t.Destination); err != nil {
		return q, err
	}
	if q.Source, err = addrPort("source", t.Source); err != nil {
		return q, err
	}
	switch {
	case t.Peer == "":
	case strings.HasPrefix(t.Peer, "spiffe://"):
		q.PeerID = t.Peer
	default:
		q.Peer, err = readChain(t.Peer)
	}
	return q, err
}

func addrPort(name, text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return ap, fmt.Errorf("%s %q is not IP:PORT", name, text)
	}
	return netipUnmap(ap), nil
}

// netipUnmap makes an IPv4-mapped address IPv4.
func netipUnmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func readChain(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("peer is neither a SPIFFE ID nor a file: %w", err)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("peer file %s: %w", path, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("peer file %s has no certificate", path)
	}
	return chain, nil
}
