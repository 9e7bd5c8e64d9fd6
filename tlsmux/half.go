package tlsmux

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// half is one direction's keys (RFC 8446, sections 5.2, 5.3 and 7.3).
type half struct {
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte // room for the one in use
	seq    uint64   // of the next record
	suite  uint16
	secret []byte
}

// newHalf makes the keys of a traffic secret.
func newHalf(suite uint16, secret []byte) (half, error) {
	h := half{suite: suite, secret: secret}
	return h, h.key()
}

// key makes the keys of h.secret.
func (h *half) key() error {
	size := 32
	if h.suite == tls.TLS_AES_128_GCM_SHA256 {
		size = 16
	}
	key, err := h.expand("key", size)
	if err != nil {
		return err
	}
	iv, err := h.expand("iv", len(h.iv))
	if err != nil {
		return err
	}
	if h.aead, err = newAEAD(h.suite, key); err != nil {
		return err
	}
	h.seq = 0
	copy(h.iv[:], iv)
	return nil
}

func newAEAD(suite uint16, key []byte) (cipher.AEAD, error) {
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return chacha20poly1305.New(key)
	}
	return nil, fmt.Errorf("cipher suite %#x is not one of TLS 1.3", suite)
}

// update goes on to the next secret (RFC 8446, section 7.2).
func (h *half) update() error {
	next, err := h.expand("traffic upd", len(h.secret))
	if err != nil {
		return err
	}
	h.secret = next
	return h.key()
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func (h *half) expand(label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(append(append(info, byte(len(label))), label...), 0)
	var hashed func() hash.Hash = sha256.New
	if h.suite == tls.TLS_AES_256_GCM_SHA384 {
		hashed = sha512.New384
	}
	return hkdf.Expand(hashed, h.secret, string(info), size)
}

// next is the nonce of the next record.
func (h *half) next() []byte {
	h.nonce = h.iv
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.iv[4:])^h.seq)
	h.seq++
	return h.nonce[:]
}

// seal appends a record of at most maxPlaintext bytes to out.
func (h *half) seal(out []byte, typ byte, data []byte) []byte {
	start := len(out)
	size := len(data) + 1 + h.aead.Overhead()
	out = append(out, typeApplicationData, 3, 3, byte(size>>8), byte(size))
	out = append(append(out, data...), typ)
	inner := out[start+recordHeaderSize:]
	header := out[start : start+recordHeaderSize]
	sealed := h.aead.Seal(inner[:0], h.next(), inner, header)
	if &sealed[0] == &inner[0] {
		return out[:start+recordHeaderSize+len(sealed)]
	}
	return append(out[:start+recordHeaderSize], sealed...)
}

// open decrypts a record: into p if there is room for all of it, else where it
// is. alert is not 0 if it is none that the peer has made.
func (h *half) open(rec, p []byte) (typ byte, data []byte, alert uint8) {
	sealed := rec[recordHeaderSize:]
	overhead := h.aead.Overhead()
	if len(sealed) < overhead {
		return 0, nil, alertBadRecordMAC
	}
	into := sealed[:0]
	if len(p) >= len(sealed)-overhead {
		into = p[: 0 : len(sealed)-overhead]
	}
	inner, err := h.aead.Open(into, h.next(), sealed, rec[:recordHeaderSize])
	if err != nil {
		return 0, nil, alertBadRecordMAC
	}
	if len(inner) > maxPlaintext+1 {
		return 0, nil, alertRecordOverflow
	}
	end := len(inner) - 1 // the type is the last byte that is not padding
	for end >= 0 && inner[end] == 0 {
		end--
	}
	if end < 0 {
		return 0, nil, alertUnexpectedMessage
	}
	return inner[end], inner[:end], 0
}
