package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

const (
	// idleTimeout ends a connection without a question (RFC 7766, section 6.2.3:
	// of the order of seconds).
	idleTimeout = 10 * time.Second
	// writeTimeout ends a connection whose client takes no answer.
	writeTimeout = 5 * time.Second
	// pipelined is how many questions of one connection may wait for servers.
	pipelined = 16
)

// client is who asked, and how.
type client struct {
	from, local netip.AddrPort
	tcp         net.Conn // nil over UDP
}

// local answers q without a server; nil if one must be asked.
func (s *Server) local(q *question) *wire.Msg {
	if r := q.improper(); r != nil {
		return r
	}
	n := s.names.Load()
	if n == nil {
		if s.opts.ForwardBeforeTable {
			return nil
		}
		s.stats.failures.Inc()
		s.log.Debug("DNS question before the first table of names", "name", q.name)
		return q.reply(wire.RcodeServerFailure)
	}
	if q.ask.Qclass != wire.ClassINET || q.ask.Qtype != wire.TypeA && q.ask.Qtype != wire.TypeAAAA {
		return nil // of names in the table, too: the table has nothing but addresses
	}
	f, ok := n.find(q.name)
	if !ok {
		return nil
	}
	s.stats.table.Inc()
	r := q.reply(wire.RcodeSuccess)
	r.Authoritative = true
	r.Answer = f.answers(q.ask)
	return r
}

// take reads a packet and answers it if it can at once: with answer, or with
// nothing if drop says so. Otherwise q is to be forwarded.
func (s *Server) take(packet []byte, tcp bool) (q *question, answer []byte, drop bool) {
	s.stats.requests.Inc()
	s.conf.now()
	q, refusal := read(packet)
	if q == nil {
		s.stats.malformed.Inc()
		if refusal == nil {
			return nil, nil, true
		}
		b, err := refusal.Pack()
		return nil, b, err != nil
	}
	r := s.local(q)
	if r == nil {
		return q, nil, false
	}
	b, err := q.pack(r, tcp)
	return q, b, err != nil
}

// serveUDP answers until ctx ends. What the table has is answered in line; only
// what waits for a server has a goroutine, and without a free slot is dropped.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	local := localOf(c.LocalAddr())
	buf := make([]byte, wire.MaxMsgSize)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.log.Warn("DNS over UDP: no packet read", "reason", err)
			pause(ctx)
			continue
		}
		q, answer, drop := s.take(buf[:n], false)
		switch {
		case drop:
			s.stats.dropped.Inc()
		case answer != nil:
			s.sendUDP(c, answer, from)
		default:
			select {
			case s.slots <- struct{}{}:
			default:
				s.stats.dropped.Inc()
				continue
			}
			wait.Go(func() {
				defer func() { <-s.slots }()
				if b, err := q.pack(s.forward(ctx, q, client{from: unmap(from), local: local}), false); err == nil {
					s.sendUDP(c, b, from)
				}
			})
		}
	}
}

func (s *Server) sendUDP(c *net.UDPConn, b []byte, to netip.AddrPort) {
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("DNS answer not sent", "to", to, "reason", err)
	}
}

// serveTCP accepts until ctx ends. Connections that are too many are closed.
func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if closed(ctx, err) == nil {
				return nil
			}
			s.log.Warn("DNS over TCP: no connection accepted", "reason", err)
			pause(ctx) // there are no file descriptors, perhaps
			continue
		}
		select {
		case s.connections <- struct{}{}:
		default:
			s.stats.dropped.Inc()
			c.Close()
			continue
		}
		wait.Go(func() {
			defer func() { <-s.connections }()
			s.stats.connections.Inc()
			defer s.stats.connections.Dec()
			if err := s.serveConn(ctx, c); err != nil {
				s.log.Debug("DNS over TCP", "from", c.RemoteAddr(), "reason", err)
			}
		})
	}
}

// pause lets what the system lacks come back.
func pause(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

// connection is a client over TCP.
type connection struct {
	net.Conn
	mu   sync.Mutex // guards writing
	wait sync.WaitGroup
	room chan struct{} // of questions that wait for servers
}

// serveConn answers the questions of a connection, in the order in which the
// answers come (RFC 7766, section 6.2.1.1), until it ends.
func (s *Server) serveConn(ctx context.Context, raw net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	c := &connection{Conn: raw, room: make(chan struct{}, pipelined)}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	defer raw.Close()
	defer cancel()
	defer c.wait.Wait() // a client that has ended its questions waits for the answers
	who := client{from: localOf(raw.RemoteAddr()), local: localOf(raw.LocalAddr()), tcp: raw}
	for {
		packet, err := c.read()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), err != nil && closed(ctx, err) == nil:
			return nil
		case err != nil:
			return err
		}
		q, answer, drop := s.take(packet, true)
		switch {
		case drop:
			return nil // whoever sends what is no question will not be understood later
		case answer != nil:
			err = c.write(answer)
		default:
			err = s.waitFor(ctx, c, q, who)
		}
		if err != nil {
			return err
		}
	}
}

// waitFor has q answered when a server has answered; it waits for room.
func (s *Server) waitFor(ctx context.Context, c *connection, q *question, who client) error {
	for _, room := range []chan struct{}{c.room, s.slots} {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.wait.Go(func() {
		defer func() { <-s.slots; <-c.room }()
		b, err := q.pack(s.forward(ctx, q, who), true)
		if err == nil {
			err = c.write(b)
		}
		if err != nil {
			c.Close() // the reader tells nobody: the client sees it
		}
	})
	return nil
}

// read is the next message. Each must come whole within the idle timeout.
func (c *connection) read() ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return nil, err
	}
	return readFrame(c.Conn)
}

func (c *connection) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return writeFrame(c.Conn, b)
}

// readFrame reads a message with its length before it (RFC 1035, section
// 4.2.2).
func readFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
