package hcm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"crypto/x509"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
	"outrider/tlsmux"
)

// xfcc is what X-Forwarded-Client-Cert says of a connection's client. It is the
// same for all requests of the connection.
type xfcc struct {
	once sync.Once
	text string
}

// apply treats the field as forward_client_cert_details says.
func (x *xfcc) apply(cfg *config.HTTPConnectionManager, tls *tlsmux.State, h *message.Head) {
	const name = "x-forwarded-client-cert"
	mutual := tls != nil && len(tls.Peer) > 0
	switch mode := cfg.ForwardClientCert; {
	case mode == config.XFCCAlwaysForwardOnly:
	case mode == config.XFCCSanitize || !mutual:
		h.Fields.Del(name)
	case mode == config.XFCCForwardOnly:
	default:
		x.once.Do(func() { x.text = clientCert(cfg.SetClientCert, tls) })
		if mode == config.XFCCAppendForward {
			appendTo(&h.Fields, name, ",", x.text)
			return
		}
		h.Fields.Set(name, x.text)
	}
}

// clientCert is one element of the field, with what d asks for.
func clientCert(d config.ClientCertDetails, tls *tlsmux.State) string {
	var parts []string
	if tls.Local != nil {
		for _, u := range tls.Local.URIs {
			parts = append(parts, "By="+u.String())
		}
	}
	peer := tls.Peer[0]
	sum := sha256.Sum256(peer.Raw)
	parts = append(parts, "Hash="+hex.EncodeToString(sum[:]))
	if d.Cert {
		parts = append(parts, `Cert="`+escapedPEM(peer)+`"`)
	}
	if d.Chain {
		parts = append(parts, `Chain="`+escapedPEM(tls.Peer...)+`"`)
	}
	if d.Subject {
		parts = append(parts, `Subject="`+peer.Subject.String()+`"`)
	}
	if d.URI {
		uris := make([]string, 0, 1)
		for _, u := range peer.URIs {
			uris = append(uris, "URI="+u.String())
		}
		if len(uris) == 0 {
			uris = append(uris, "URI=") // the key is there all the same
		}
		parts = append(parts, uris...)
	}
	if d.DNS {
		for _, n := range peer.DNSNames {
			parts = append(parts, "DNS="+n)
		}
	}
	return strings.Join(parts, ";")
}

// escapedPEM is certificates as URL-encoded PEM.
func escapedPEM(chain ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range chain {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return strings.ReplaceAll(url.QueryEscape(b.String()), "+", "%20")
}

// newUUID is a random UUID (RFC 9562 version 4).
func newUUID(rand func() uint64) string {
	const digits = "0123456789abcdef"
	var b [36]byte
	hi, lo := rand(), rand()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	at := 0
	for i := range 32 {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			b[at] = '-'
			at++
		}
		word := hi
		if i >= 16 {
			word = lo
		}
		b[at] = digits[word>>(60-4*(i%16))&0xf]
		at++
	}
	return string(b[:])
}

func portText(p uint16) string { return strconv.Itoa(int(p)) }
