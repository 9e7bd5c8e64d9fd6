package tlsmux

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"time"
)

// ticketKeys are our own session ticket keys: one a day, today's first and
// yesterday's still good, all from one secret that never leaves the process.
type ticketKeys struct{ secret [32]byte }

func newTicketKeys() *ticketKeys {
	k := &ticketKeys{}
	rand.Read(k.secret[:])
	return k
}

func (k *ticketKeys) of(day int64) [][32]byte {
	var out [][32]byte
	for _, d := range []int64{day, day - 1} {
		mac := hmac.New(sha256.New, k.secret[:])
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(d)))
		out = append(out, [32]byte(mac.Sum(nil)))
	}
	return out
}

func today() int64 { return time.Now().Unix() / int64(24*time.Hour/time.Second) }

// defaultSessionTimeout is BoringSSL's (session_timeout of
// DownstreamTlsContext).
const defaultSessionTimeout = 2 * time.Hour

// ticketMark begins what we add to a session ticket: the mark, the policy's
// fingerprint, the seconds since 1970 at which it was issued.
const ticketMark = "outrider/1"

// bindSessions makes cfg's tickets good for one policy and one lifetime. One
// of another policy leads to a full handshake: so a client that was let in
// without a certificate can bring one when one is demanded. What is resumed is
// verified anew all the same.
func bindSessions(cfg *tls.Config, fingerprint [sha256.Size]byte, lifetime time.Duration) {
	prefix := append([]byte(ticketMark), fingerprint[:]...)
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, binary.BigEndian.AppendUint64(bytes.Clone(prefix), uint64(time.Now().Unix())))
		return cfg.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := cfg.DecryptTicket(identity, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		for _, extra := range ss.Extra {
			rest, ok := bytes.CutPrefix(extra, prefix)
			if !ok || len(rest) != 8 {
				continue
			}
			age := time.Since(time.Unix(int64(binary.BigEndian.Uint64(rest)), 0))
			if age >= -clockSlack && age < lifetime {
				return ss, nil
			}
		}
		return nil, nil // a full handshake
	}
}
