package relay

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// parkedRelay is a relay between two sockets, which is parked at once when it
// is quiet.
type parkedRelay struct {
	client, server *net.TCPConn
	lot            *Lot
	ended          chan Result
	stop           context.CancelFunc
}

func newLot(t *testing.T, after time.Duration) *Lot {
	t.Helper()
	var running sync.WaitGroup
	lot, err := NewLot(after, func(f func()) { running.Go(f) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watching := make(chan error, 1)
	go func() { watching <- lot.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-watching; err != nil {
			t.Error(err)
		}
		running.Wait()
		if n := lot.Parked(); n != 0 {
			t.Errorf("%d relays are parked at the end", n)
		}
	})
	return lot
}

func park(t *testing.T, o Options) *parkedRelay {
	t.Helper()
	client, down := pair(t)
	up, server := pair(t)
	o.Lot = newLot(t, time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	p := &parkedRelay{client: client, server: server, lot: o.Lot, ended: make(chan Result, 2), stop: cancel}
	returned := make(chan struct{})
	go func() {
		Start(ctx, Plain(down), Plain(up), o, func(r Result) {
			down.Close()
			up.Close()
			p.ended <- r
		})
		close(returned)
	}()
	t.Cleanup(cancel)
	p.quiet(t)
	select {
	case <-returned:
	case <-time.After(5 * time.Second):
		t.Fatal("Start has not returned, though the relay is parked")
	}
	return p
}

// quiet waits until the relay is parked.
func (p *parkedRelay) quiet(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); p.lot.Parked() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("the relay is not parked\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
}

func (p *parkedRelay) result(t *testing.T) Result {
	t.Helper()
	select {
	case r := <-p.ended:
		return r
	case <-time.After(5 * time.Second):
		t.Fatal("the relay has not ended")
		return Result{}
	}
}

func pass(t *testing.T, from, to net.Conn, b []byte) {
	t.Helper()
	go from.Write(b)
	got := make([]byte, len(b))
	to.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%d bytes did not come through: %v", len(b), err)
	}
}

func TestAParkedRelayGoesOnInBothDirections(t *testing.T) {
	p := park(t, Options{})
	for range 3 {
		pass(t, p.client, p.server, []byte("hello"))
		p.quiet(t)
		pass(t, p.server, p.client, bytes.Repeat([]byte("there"), 100<<10))
		p.quiet(t)
	}
	p.client.CloseWrite()
	if n, err := p.server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatal("the end of the client is not passed on:", err)
	}
	pass(t, p.server, p.client, []byte("more"))
	p.server.CloseWrite()
	if r := p.result(t); r.Cause != Finished || r.FirstEOF != 'd' {
		t.Errorf("it ended with %+v", r)
	}
}

func TestWhatEndsAParkedRelay(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		do   func(p *parkedRelay)
		want Cause
	}{
		"the context":      {Options{}, func(p *parkedRelay) { p.stop() }, Stopped},
		"the idle timeout": {Options{IdleTimeout: 50 * time.Millisecond}, func(*parkedRelay) {}, Idle},
		"a reset of the client": {Options{}, func(p *parkedRelay) {
			p.client.SetLinger(0)
			p.client.Close()
		}, DownstreamReset},
		"a reset of the server": {Options{}, func(p *parkedRelay) {
			p.server.SetLinger(0)
			p.server.Close()
		}, UpstreamReset},
	} {
		t.Run(name, func(t *testing.T) {
			p := park(t, c.o)
			c.do(p)
			if r := p.result(t); r.Cause != c.want {
				t.Errorf("it ended with %+v, want cause %v", r, c.want)
			}
			select {
			case r := <-p.ended:
				t.Errorf("it has ended again: %+v", r)
			case <-time.After(10 * time.Millisecond):
			}
		})
	}
}

func TestAParkedRelayHasNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	p := park(t, Options{})
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+1; time.Sleep(time.Millisecond) { // the lot's
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%s", buf[:runtime.Stack(buf, true)])
		}
	}
	pass(t, p.client, p.server, []byte("x"))
}

func TestAHalfClosedRelayIsNotParked(t *testing.T) {
	p := park(t, Options{})
	p.client.CloseWrite()
	p.server.Read(make([]byte, 1))
	time.Sleep(20 * time.Millisecond)
	if p.lot.Parked() != 0 {
		t.Error("it is")
	}
	pass(t, p.server, p.client, []byte("still"))
}

// Parking is tried at every moment while bytes move in bursts.
func TestNoByteIsLostToParking(t *testing.T) {
	client, down := pair(t)
	up, server := pair(t)
	lot := newLot(t, 50*time.Microsecond)
	ended := make(chan Result, 1)
	go Start(t.Context(), Plain(down), Plain(up), Options{Lot: lot}, func(r Result) { ended <- r })
	go func() { // an echo in bursts
		io.Copy(server, server)
		server.CloseWrite()
	}()
	data := random(8<<20, 1)
	go func() {
		for b := data; len(b) > 0; {
			n := min(len(b), 1+int(b[0])*200)
			client.Write(b[:n])
			if b[0]%4 == 0 {
				time.Sleep(time.Duration(b[0]) * time.Microsecond)
			}
			b = b[n:]
		}
		client.CloseWrite()
	}()
	client.SetReadDeadline(time.Now().Add(60 * time.Second))
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
	}
	if r := <-ended; r.Cause != Finished {
		t.Errorf("it ended with %+v", r)
	}
}
