package proxy

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"outrider/proxy/http/message"
)

// QueryText is a Query as flags or URL parameters give it.
type QueryText struct {
	Listener, Destination, Source, SNI, Peer string
	ALPN                                     []string
	TLS                                      bool
	// Request is a method and a URL ("GET http://shop/cart?x=1"), "" for none;
	// Headers are its fields ("name: value").
	Request string
	Headers []string
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
	if q.Request, err = parseRequest(t.Request, t.Headers); err != nil {
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

// parseRequest is the head of a request; nil for none.
func parseRequest(text string, fields []string) (*message.Head, error) {
	if text == "" {
		if len(fields) > 0 {
			return nil, fmt.Errorf("header %q needs a request", fields[0])
		}
		return nil, nil
	}
	method, rest, ok := strings.Cut(text, " ")
	u, err := url.Parse(rest)
	if !ok || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(rest, " \t") {
		return nil, fmt.Errorf("request %q is not a method and a URL: GET http://HOST/PATH", text)
	}
	h := message.NewHead()
	h.Method, h.Scheme, h.Authority, h.Path = method, u.Scheme, u.Host, u.RequestURI()
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("header %q is not NAME: VALUE", f)
		}
		h.Fields.Add(strings.ToLower(name), strings.TrimSpace(value))
	}
	return h, nil
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
