package tlsmux

import (
	"crypto/fips140"
	"crypto/tls"
	"encoding/hex"
	"io"
	"strings"
)

// handover gathers, during a handshake of crypto/tls, what a layer13 goes on
// with: the traffic secrets, which crypto/tls tells its KeyLogWriter, and how
// many records it has sealed with them.
type handover struct {
	keyLog         io.Writer // the context's own; nil for none
	client, server []byte    // traffic secrets; nil until they are there
	sealed         uint64    // records that crypto/tls has sealed with the server's secret: tickets
	lost           bool      // something was not as expected: crypto/tls keeps the connection
}

// labels of the key log
// (draft-ietf-tls-keylogfile, section 2.1).
const (
	labelClientTraffic = "CLIENT_TRAFFIC_SECRET_0"
	labelServerTraffic = "SERVER_TRAFFIC_SECRET_0"
)

// config is cfg for this one handshake. Under FIPS 140 mode the record layer has
// to be crypto/tls's.
func (h *handover) config(cfg *tls.Config) *tls.Config {
	if fips140.Enabled() {
		h.lost = true
		return cfg
	}
	own := cfg.Clone()
	own.KeyLogWriter = h
	if wrap := cfg.WrapSession; wrap != nil {
		own.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
			ticket, err := wrap(cs, ss)
			h.sealed++
			if len(ticket) > maxPlaintext/2 {
				h.lost = true // its message may be of more than one record
			}
			return ticket, err
		}
	}
	return own
}

// Write takes a line of the key log: a label, the client's random value and the
// secret, both in hex.
func (h *handover) Write(line []byte) (int, error) {
	if fields := strings.Fields(string(line)); len(fields) == 3 {
		switch fields[0] {
		case labelClientTraffic:
			h.client, _ = hex.DecodeString(fields[2])
		case labelServerTraffic:
			h.server, _ = hex.DecodeString(fields[2])
		}
	}
	if h.keyLog != nil {
		return h.keyLog.Write(line)
	}
	return len(line), nil
}

// layer is what a connection goes on with after its handshake.
func (h *handover) layer(t *tls.Conn, cs *tls.ConnectionState, r *records, side Side, sessions bool) layer {
	if l := h.layer13(t, cs, r, side, sessions); l != nil {
		return l
	}
	return &cryptoTLS{Conn: t, records: r}
}

// layer13 is nil where crypto/tls has to go on.
func (h *handover) layer13(t *tls.Conn, cs *tls.ConnectionState, r *records, side Side, sessions bool) *layer13 {
	if h.lost || cs.Version != tls.VersionTLS13 || h.client == nil || h.server == nil || r.have > 0 {
		return nil
	}
	client, err := newHalf(cs.CipherSuite, h.client)
	if err != nil {
		return nil
	}
	server, err := newHalf(cs.CipherSuite, h.server)
	if err != nil {
		return nil
	}
	l := &layer13{records: r, side: side}
	if side == Downstream {
		l.in, l.out = client, server
		l.out.seq = h.sealed
	} else {
		l.in, l.out = server, client
		if sessions {
			l.tickets = &ticketTaker{conn: t, keys: half{aead: server.aead, iv: server.iv}}
		}
	}
	r.over = true
	return l
}

// ticketTaker brings a client's session ticket to crypto/tls, which alone can
// put it into its session cache: as the record that it expects, the first one
// of the server. That record never leaves the process.
type ticketTaker struct {
	conn *tls.Conn
	keys half
}

// take gives crypto/tls a NewSessionTicket. A ticket that it refuses is one
// that is not resumed.
func (t *ticketTaker) take(r *records, message []byte) {
	if len(message) > maxPlaintext {
		return
	}
	r.given = t.keys.seal(nil, typeHandshake, message)
	t.conn.Read(make([]byte, 1)) //nolint:errcheck // it wants more, or refuses the ticket
	r.given = nil
}
