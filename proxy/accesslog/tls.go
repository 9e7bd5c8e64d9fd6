package accesslog

import (
	"crypto/sha1" //nolint:gosec // Envoy's FINGERPRINT_1
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"

	"outrider/proxy/flow"
	"outrider/tlsmux"
)

// side is one side's TLS state; nil for plaintext.
type side func(*flow.Info) *tlsmux.State

// chain is a certificate chain of a state, leaf first; empty if there is none.
type chain func(*tlsmux.State) []*x509.Certificate

func peer(s *tlsmux.State) []*x509.Certificate { return s.Peer }

func local(s *tlsmux.State) []*x509.Certificate {
	if s.Local == nil {
		return nil
	}
	return []*x509.Certificate{s.Local}
}

func addTLS(all map[string]spec) {
	downstream := side(func(i *flow.Info) *tlsmux.State { return i.Downstream })
	upstream := side(func(i *flow.Info) *tlsmux.State { return i.Upstream })
	for prefix, of := range map[string]side{"DOWNSTREAM_": downstream, "UPSTREAM_": upstream} {
		all[prefix+"TLS_VERSION"] = session(of, func(s *tlsmux.State) string { return tlsmux.VersionName(s.Version) })
		all[prefix+"TLS_CIPHER"] = session(of, func(s *tlsmux.State) string { return tlsmux.CipherName(s.CipherSuite) })
		all[prefix+"TLS_GROUP"] = session(of, func(s *tlsmux.State) string { return tlsmux.GroupName(s.Curve) })
		all[prefix+"TLS_SESSION_ID"] = session(of, func(s *tlsmux.State) string { return s.SessionID })
		all[prefix+"PEER_SUBJECT"] = leaf(of, peer, subject)
		all[prefix+"PEER_ISSUER"] = leaf(of, peer, issuer)
		all[prefix+"PEER_CERT"] = leaf(of, peer, urlEncodedPEM)
		all[prefix+"PEER_CERT_V_START"] = validity(of, func(c *x509.Certificate) time.Time { return c.NotBefore })
		all[prefix+"PEER_CERT_V_END"] = validity(of, func(c *x509.Certificate) time.Time { return c.NotAfter })
		for name, kind := range map[string]byte{"URI": sanURI, "DNS": sanDNS, "IP": sanIP} {
			all[prefix+"PEER_"+name+"_SAN"] = leaf(of, peer, sans(kind))
			all[prefix+"LOCAL_"+name+"_SAN"] = leaf(of, local, sans(kind))
		}
	}
	for name, kind := range map[string]byte{"EMAIL": sanEmail, "OTHERNAME": sanOther} {
		all["DOWNSTREAM_PEER_"+name+"_SAN"] = leaf(downstream, peer, sans(kind))
		all["DOWNSTREAM_LOCAL_"+name+"_SAN"] = leaf(downstream, local, sans(kind))
	}
	all["DOWNSTREAM_LOCAL_SUBJECT"] = leaf(downstream, local, subject)
	for name, print := range map[string]appendCert{
		"FINGERPRINT_256": fingerprint256, "FINGERPRINT_1": fingerprint1, "SERIAL": serial,
	} {
		all["DOWNSTREAM_PEER_"+name] = leaf(downstream, peer, print)
		chainName, number, _ := strings.Cut(name, "_")
		if chainName += "S"; number != "" {
			chainName += "_" + number
		}
		all["DOWNSTREAM_PEER_CHAIN_"+chainName] = each(downstream, print)
	}
	all["DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256"] = nth(downstream, peer, 1, fingerprint256)
	all["DOWNSTREAM_PEER_ISSUER_SERIAL"] = nth(downstream, peer, 1, serial)
}

func session(of side, f func(*tlsmux.State) string) spec {
	return plain(text(func(i *flow.Info) string {
		if s := of(i); s != nil {
			return f(s)
		}
		return ""
	}))
}

// appendCert prints something of a certificate; nothing is no value.
type appendCert func(b []byte, c *x509.Certificate) []byte

func leaf(of side, which chain, print appendCert) spec { return nth(of, which, 0, print) }

// nth is of the certificate at that place of the chain as it was presented.
func nth(of side, which chain, n int, print appendCert) spec {
	return plain(operator{text: func(b []byte, e *entry) ([]byte, bool) {
		s := of(e.info)
		if s == nil || len(which(s)) <= n {
			return b, false
		}
		start := len(b)
		b = print(b, which(s)[n])
		return b, len(b) > start
	}})
}

// each is of all certificates of the peer's chain, with commas between.
func each(of side, print appendCert) spec {
	return plain(operator{text: func(b []byte, e *entry) ([]byte, bool) {
		s := of(e.info)
		if s == nil || len(s.Peer) == 0 {
			return b, false
		}
		for i, c := range s.Peer {
			if i > 0 {
				b = append(b, ',')
			}
			b = print(b, c)
		}
		return b, true
	}})
}

func validity(of side, get func(*x509.Certificate) time.Time) spec {
	return moment(func(e *entry) time.Time {
		s := of(e.info)
		if s == nil || len(s.Peer) == 0 {
			return time.Time{}
		}
		return get(s.Peer[0])
	}, time.UTC)
}

func subject(b []byte, c *x509.Certificate) []byte { return appendName(b, c.RawSubject) }
func issuer(b []byte, c *x509.Certificate) []byte  { return appendName(b, c.RawIssuer) }

func fingerprint256(b []byte, c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.Raw)
	return hex.AppendEncode(b, sum[:])
}

func fingerprint1(b []byte, c *x509.Certificate) []byte {
	sum := sha1.Sum(c.Raw) //nolint:gosec // as above
	return hex.AppendEncode(b, sum[:])
}

// serial is in hex, of whole bytes.
func serial(b []byte, c *x509.Certificate) []byte {
	n := c.SerialNumber
	if n == nil || n.Sign() == 0 {
		return append(b, '0')
	}
	if n.Sign() < 0 {
		b = append(b, '-')
	}
	return hex.AppendEncode(b, n.Bytes())
}

func urlEncodedPEM(b []byte, c *x509.Certificate) []byte {
	for _, char := range pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) {
		switch char {
		case '\n', ' ', '+', '/', '=':
			b = append(b, '%', upperDigits[char>>4], upperDigits[char&15])
		default:
			b = append(b, char)
		}
	}
	return b
}

const upperDigits = "0123456789ABCDEF"
