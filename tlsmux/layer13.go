package tlsmux

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"

	"outrider/tlsmux/wait"
)

// layer13 is the record layer of TLS 1.3 (RFC 8446, section 5) after the
// handshake, which crypto/tls has done. Records are decrypted from the buffer
// that the kernel has filled straight into the reader's, as many as are there;
// what is written is encrypted into one buffer, and written at once. While the
// connection is quiet there is neither buffer.
type layer13 struct {
	records *records
	side    Side

	// Reading side.
	in      half
	plain   []byte // of the record at records.start: decrypted, and not read yet
	ended   error  // io.EOF or a failure; nothing more is read
	useless int    // records since the last with application data
	hand    []byte // part of a handshake message that the next record goes on with
	tickets *ticketTaker

	// Writing side.
	out      half // guarded by records.mu
	finished bool // guarded by records.mu; close_notify has been sent
	// answer says that the peer wants new keys for what we send, which they get
	// before the next record (RFC 8446, section 4.6.3).
	answer atomic.Bool
}

// Content types and handshake messages of RFC 8446, appendix B.
const (
	typeAlert           = 21
	typeHandshake       = 22
	typeApplicationData = 23

	messageNewSessionTicket = 4
	messageKeyUpdate        = 24
)

// Alerts of RFC 8446, section 6.
const (
	alertCloseNotify       = 0
	alertUnexpectedMessage = 10
	alertBadRecordMAC      = 20
	alertRecordOverflow    = 22
	alertIllegalParameter  = 47
	alertDecodeError       = 50
	alertProtocolVersion   = 70
	alertInternalError     = 80
	alertUserCanceled      = 90
)

// maxUseless is how many records without application data may come in a row, as
// many as crypto/tls takes.
const maxUseless = 16

// maxMessage bounds a handshake message after the handshake: a ticket is the
// only long one.
const maxMessage = 64 << 10

func (l *layer13) Read(p []byte) (int, error) {
	for {
		if n, err := l.readBuffered(p, p); n > 0 || err != nil {
			return n, err
		}
		if err := l.fill(); err != nil {
			return 0, err
		}
	}
}

// ReadLazy takes the room when a whole record has come.
func (l *layer13) ReadLazy(b wait.Buffer) (int, error) {
	for {
		if len(l.plain) == 0 && l.ended == nil && l.whole() == nil && l.ended == nil {
			if err := l.fill(); err != nil {
				return 0, err
			}
			continue
		}
		p := b.Take()
		n, err := l.readBuffered(p, p[:min(cap(p), len(p)+1)])
		if n > 0 {
			return n, nil
		}
		if b.Drop(); err != nil {
			return 0, err
		}
	}
}

// WaitReadable decrypts in place, since it has no room to decrypt into.
func (l *layer13) WaitReadable() error {
	for len(l.plain) == 0 && l.ended == nil {
		if rec := l.whole(); rec != nil {
			l.take(rec, nil, nil)
			continue
		}
		if l.ended != nil {
			return nil
		}
		if err := l.fill(); err != nil && l.ended == nil {
			return err
		}
	}
	return nil
}

// readBuffered reads what needs no system call; 0 and nil if that is nothing.
// room is p, and behind it a byte for the content type of what fits exactly.
func (l *layer13) readBuffered(p, room []byte) (int, error) {
	n := l.readPlain(p)
	for n < len(p) && l.ended == nil {
		rec := l.whole()
		if rec == nil || n > 0 && len(rec)-recordHeaderSize-l.in.aead.Overhead() > len(room)-n {
			break // the rest is for the next read, which has room for all of it
		}
		n += l.take(rec, p[n:], room[n:])
	}
	if n > 0 {
		return n, nil
	}
	return 0, l.ended
}

// readPlain reads of what is decrypted.
func (l *layer13) readPlain(p []byte) int {
	n := copy(p, l.plain)
	l.plain = l.plain[n:]
	if n > 0 && len(l.plain) == 0 {
		l.plain = nil
		l.consumeRecord()
	}
	return n
}

func (l *layer13) consumeRecord() { l.records.consume(len(l.records.next())) }

// whole is the next record, if all of it has come. A header that cannot be right
// ends the connection.
func (l *layer13) whole() []byte {
	header := l.records.header()
	if header == nil {
		return nil
	}
	switch n := binary.BigEndian.Uint16(header[3:]); {
	case header[0] != typeApplicationData:
		l.fail(alertUnexpectedMessage)
	case header[1] != 3 || header[2] != 3:
		l.fail(alertProtocolVersion)
	case n > maxPlaintext+recordOverhead:
		l.fail(alertRecordOverflow)
	default:
		return l.records.next()
	}
	return nil
}

// take decrypts a record and does what it says. If it has application data, and
// p has room for all of it, it is read there, by way of room, else as much as
// there is room, and the rest is in plain.
func (l *layer13) take(rec, p, room []byte) int {
	typ, data, alert := l.in.open(rec, room)
	if alert != 0 {
		l.fail(alert)
		return 0
	}
	if typ == typeApplicationData && len(data) > 0 {
		return l.takeData(data, p)
	}
	if l.useless++; l.useless > maxUseless {
		l.fail(alertUnexpectedMessage)
		return 0
	}
	switch typ {
	case typeApplicationData:
	case typeAlert:
		l.takeAlert(data)
	case typeHandshake:
		l.takeHandshake(data)
	default:
		l.fail(alertUnexpectedMessage)
	}
	if l.ended == nil {
		l.consumeRecord()
	}
	return 0
}

func (l *layer13) takeData(data, p []byte) int {
	if len(l.hand) > 0 { // section 5.1: nothing between the parts of a message
		l.fail(alertUnexpectedMessage)
		return 0
	}
	l.useless, l.tickets = 0, nil
	if len(p) > 0 && &data[0] == &p[0] {
		l.consumeRecord()
		return len(data)
	}
	l.plain = data
	return l.readPlain(p)
}

// takeAlert ends the connection, whichever alert it is, but for user_canceled,
// which close_notify comes after.
func (l *layer13) takeAlert(data []byte) {
	switch {
	case len(data) != 2:
		l.fail(alertUnexpectedMessage)
	case data[1] == alertCloseNotify:
		l.end(io.EOF)
	case data[1] == alertUserCanceled:
	default:
		l.end(&net.OpError{Op: "remote error", Err: tls.AlertError(data[1])})
	}
}

// takeHandshake takes the messages that may come after the handshake. Whoever
// takes them gets whole ones.
func (l *layer13) takeHandshake(data []byte) {
	if len(data) == 0 { // section 5.1
		l.fail(alertUnexpectedMessage)
		return
	}
	if len(l.hand) > 0 {
		data = append(l.hand, data...)
	}
	for len(data) >= 4 && l.ended == nil {
		n := 4 + (int(data[1])<<16 | int(data[2])<<8 | int(data[3]))
		if n > maxMessage {
			l.fail(alertDecodeError)
			return
		}
		if len(data) < n {
			break
		}
		l.takeMessage(data[:n], len(data) == n)
		data = data[n:]
	}
	if l.hand = append(l.hand[:0:0], data...); len(l.hand) == 0 {
		l.hand = nil
	}
}

// takeMessage takes one message; last says that its record ends with it.
func (l *layer13) takeMessage(m []byte, last bool) {
	switch {
	case m[0] == messageNewSessionTicket && l.side == Upstream:
		if l.tickets != nil {
			l.tickets.take(l.records, m)
			l.tickets = nil // one is all that is kept
		}
	case m[0] != messageKeyUpdate || !last: // a change of keys ends a record: section 5.1
		l.fail(alertUnexpectedMessage)
	case len(m) != 5:
		l.fail(alertDecodeError)
	case m[4] > 1:
		l.fail(alertIllegalParameter)
	default:
		l.tickets = nil // made with the keys before
		if err := l.in.update(); err != nil {
			l.fail(alertInternalError)
			return
		}
		if m[4] == 1 {
			l.answer.Store(true)
		}
	}
}

// fill reads from the socket. What ends the connection is in ended as well.
func (l *layer13) fill() error {
	if l.ended != nil {
		return l.ended
	}
	err := l.records.fill()
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case err == io.EOF && l.records.buffered():
		err = io.ErrUnexpectedEOF
	}
	l.end(err)
	return err
}

// end is what every read says from now on.
func (l *layer13) end(err error) {
	l.ended, l.hand, l.tickets = err, nil, nil
	l.records.drop()
}

// fail ends the connection for what the peer has sent. The alert goes out if
// there is room for it.
func (l *layer13) fail(alert uint8) {
	r := l.records
	err := &net.OpError{Op: "local error", Err: tls.AlertError(alert)}
	l.end(err)
	if !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	if r.failed == nil && !l.finished {
		r.tryWrite(l.out.seal(nil, typeAlert, []byte{2, alert})) //nolint:errcheck // the connection is over
		r.failed = err
	}
}

// rekeyAfter is how many records may be sealed with one key of AES-GCM, which
// RFC 8446, section 5.5, puts at 2^24.5.
const rekeyAfter = 1 << 24

// errFinished is a write after CloseWrite.
var errFinished = errors.New("tls: the connection is closed for writing") //nolint:gochecknoglobals // an error value

// Write writes all of p in records of 16 KiB, as many to a system call as the
// buffer holds.
func (l *layer13) Write(p []byte) (int, error) {
	r := l.records
	r.mu.Lock()
	defer r.mu.Unlock()
	buf := writeBuffers.Get(len(p) > readAhead)
	defer writeBuffers.Put(buf)
	most := len(buf.Bytes) / maxRecord * maxPlaintext
	written := 0
	for written < len(p) {
		if l.finished {
			return written, errFinished
		}
		out, err := l.rekeyed(buf.Bytes[:0])
		if err != nil {
			return written, err
		}
		batch := p[written:min(len(p), written+most)]
		for b := batch; len(b) > 0; {
			n := min(len(b), maxPlaintext)
			out = l.out.seal(out, typeApplicationData, b[:n])
			b = b[n:]
		}
		if _, err := r.send(out); err != nil {
			return written, err
		}
		written += len(batch)
	}
	return written, nil
}

// rekeyed begins what is written with a key update where one is due.
func (l *layer13) rekeyed(out []byte) ([]byte, error) {
	if l.out.seq < rekeyAfter && !l.answer.Load() {
		return out, nil
	}
	l.answer.Store(false)
	out = l.out.seal(out, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, 0})
	return out, l.out.update()
}

func (l *layer13) closeWrite() error {
	r := l.records
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.finished {
		return nil
	}
	l.finished = true
	return r.sendLast(l.out.seal(nil, typeAlert, []byte{1, alertCloseNotify}))
}

// close does not wait: not for a writer that waits for the peer, and not for
// the peer.
func (l *layer13) close() error {
	r := l.records
	if r.mu.TryLock() {
		if !l.finished && r.failed == nil {
			l.finished = true
			r.tryWrite(l.out.seal(nil, typeAlert, []byte{1, alertCloseNotify})) //nolint:errcheck // it goes out if there is room
		}
		r.mu.Unlock()
	}
	return r.Conn.Close()
}
