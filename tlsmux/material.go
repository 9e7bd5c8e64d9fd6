package tlsmux

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"outrider/certs"
)

// secrets are the handles that a context is made of.
type secrets struct {
	certificates []*certs.Handle
	validation   *certs.Handle // nil: the static one alone
	tickets      *certs.Handle // nil: our own keys
}

func (c *CommonConfig) secrets(store *certs.Store) secrets {
	var s secrets
	for _, ref := range c.Certificates {
		s.certificates = append(s.certificates, store.Get(ref))
	}
	if c.ValidationRef != nil {
		s.validation = store.Get(*c.ValidationRef)
	}
	return s
}

// all are the handles, nil ones left out.
func (s *secrets) all() []*certs.Handle {
	out := s.certificates
	for _, h := range []*certs.Handle{s.validation, s.tickets} {
		if h != nil {
			out = append(out[:len(out):len(out)], h)
		}
	}
	return out
}

// ready is nil if every secret is there, else the first that is not.
func (s *secrets) ready() error {
	for _, h := range s.all() {
		if _, err := h.Current(); err != nil {
			return err
		}
	}
	return nil
}

// revision is the sum of all revisions: each only grows, so it changes when
// one does.
func (s *secrets) revision() uint64 {
	var sum uint64
	for _, h := range s.certificates {
		sum += h.Revision()
	}
	if s.validation != nil {
		sum += s.validation.Revision()
	}
	if s.tickets != nil {
		sum += s.tickets.Revision()
	}
	return sum
}

// material is what handshakes need, made from one revision of the secrets.
type material struct {
	revision uint64
	day      int64 // of our own ticket keys
	config   *tls.Config
	noALPN   *tls.Config // for clients with whom we share no protocol; nil on a client
	policy   *policy
}

// endpoint is what a server and a client share.
type endpoint struct {
	side    Side
	common  *CommonConfig
	secrets secrets
	current atomic.Pointer[material]
	build   sync.Mutex
	keyLog  io.Writer // opened with the first material
}

// base is the tls.Config of both sides, without what only one has.
func (c *endpoint) base() (*tls.Config, *policy, error) {
	pairs := make([]tls.Certificate, 0, len(c.secrets.certificates))
	for _, h := range c.secrets.certificates {
		secret, err := h.Current()
		if err != nil {
			return nil, nil, err
		}
		if secret.KeyPair == nil {
			return nil, nil, &certs.NotReadyError{Name: secret.Name}
		}
		pairs = append(pairs, secret.KeyPair.TLS)
	}
	validation := c.common.Validation
	var from *certs.Secret
	if c.secrets.validation != nil {
		secret, err := c.secrets.validation.Current()
		if err != nil {
			return nil, nil, err
		}
		validation, from = validation.Merge(secret.Validation), secret
	}
	if err := c.openKeyLog(); err != nil {
		return nil, nil, err
	}
	cfg := &tls.Config{
		Certificates: pairs, MinVersion: c.common.MinVersion, MaxVersion: c.common.MaxVersion,
		CipherSuites: c.common.CipherSuites, CurvePreferences: c.common.Curves, NextProtos: c.common.ALPN,
		DynamicRecordSizingDisabled: true, KeyLogWriter: c.keyLog,
		InsecureSkipVerify: true, // VerifyConnection does it, on resumed sessions too
	}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	return cfg, newPolicy(validation, from), nil
}

// openKeyLog opens key_log.path for appending, if there is one.
func (c *endpoint) openKeyLog() error {
	if c.common.KeyLogPath == "" || c.keyLog != nil {
		return nil
	}
	f, err := os.OpenFile(c.common.KeyLogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("key_log: %w", err)
	}
	c.keyLog = f
	return nil
}

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
		binary.Write(mac, binary.BigEndian, d)
		out = append(out, [32]byte(mac.Sum(nil)))
	}
	return out
}

func today() int64 { return time.Now().Unix() / int64(24*time.Hour/time.Second) }
