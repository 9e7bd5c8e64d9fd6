package h1

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

// A receiver that passes nothing on stops the reader, so that the client's
// writes stop.
func TestServerStopsReadingWithoutCredit(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{BufferLimit: 32 << 10})
	const size = 64 << 20
	v.write(post + "Content-Length: 67108864\r\n\r\n")
	r := a.next(t)
	r.mu.Lock()
	r.keep = true
	r.mu.Unlock()
	wrote := make(chan int)
	go func() {
		n := 0
		p := make([]byte, 1<<16)
		for n < size {
			_ = v.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			m, err := v.nc.Write(p)
			if n += m; err != nil {
				break
			}
		}
		wrote <- n
	}()
	if n := <-wrote; n >= size {
		t.Fatal("all of the body was taken")
	}
	r.mu.Lock()
	held := r.body.Len()
	r.mu.Unlock()
	if held > readSize+32<<10 {
		t.Errorf("the receiver holds %d bytes", held)
	}
	_ = v.nc.SetDeadline(time.Now().Add(patience))
	r.mu.Lock()
	r.keep = false
	r.mu.Unlock()
	r.s.Consumed(held)
	r.await(t, "more", func() bool { return r.body.Len() > held+(1<<20) })
}

// What is beyond the limit is gone only when the peer has read.
func TestSenderIsToldWhatIsGone(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{BufferLimit: 100 << 10})
	v.write(get + "\r\n")
	r := a.next(t)
	r.s.SendHead(respond(200, "content-length", "67108864"), false)
	p := make([]byte, 64<<10)
	sent, gone := 0, 0
	for !v.srv.BufferedAbove() {
		gone += r.s.SendData(p, false)
		sent += len(p)
		if sent > 64<<20 {
			t.Fatal("64 MiB were taken")
		}
	}
	if gone >= sent {
		t.Errorf("all of %d bytes are gone", sent)
	}
	go io.Copy(io.Discard, v.br)
	r.await(t, "the rest", func() bool { return gone+r.gone == sent })
}

// A client that asks and does not read gets no more answers than there is room
// for.
func TestPipelinedRequestsWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(func(r *record, _ string) {
			r.s.SendHead(respond(200, "content-length", "65536"), false)
			r.s.SendData(make([]byte, 65536), true)
		})
		const n = 1000
		client, nc := net.Pipe()
		srv := NewServer(relay.Plain(nc), a, Options{BufferLimit: 128 << 10})
		done := make(chan *codec.End)
		go func() { done <- srv.Serve() }()
		go io.WriteString(client, strings.Repeat(get+"\r\n", n))
		synctest.Wait()
		if k := len(a.came); k > 4 {
			t.Errorf("%d requests were taken", k)
		}
		buf := make([]byte, n*65536)
		if _, err := io.ReadFull(client, buf); err != nil {
			t.Fatal(err)
		}
		if k := len(a.came); k < n*9/10 {
			t.Errorf("%d requests were taken in the end", k)
		}
		client.Close()
		<-done
	})
}

// A client that does not read at all is given up.
func TestLastResponseIsNotWrittenForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(nil)
		client, nc := net.Pipe()
		srv := NewServer(relay.Plain(nc), a, Options{})
		done := make(chan *codec.End)
		go func() { done <- srv.Serve() }()
		io.WriteString(client, get+"Connection: close\r\n\r\n")
		r := a.next(t)
		r.s.SendHead(respond(200), false)
		synctest.Wait() // it is being written
		began := time.Now()
		r.s.SendData([]byte("x"), true)
		<-done
		if took := time.Since(began); took < closingTime || took > 2*closingTime {
			t.Errorf("it took %s", took)
		}
	})
}

// Nothing is said of a stream after its reset.
func TestResetWaitsForWhatIsBeingTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		hold := make(chan struct{})
		a := newApp(func(_ *record, what string) {
			if what == "gone" {
				<-hold
			}
			events = append(events, what)
		})
		client, nc := net.Pipe()
		srv := NewServer(relay.Plain(nc), a, Options{BufferLimit: 1024})
		done := make(chan *codec.End)
		go func() { done <- srv.Serve() }()
		io.WriteString(client, get+"\r\n")
		r := a.next(t)
		synctest.Wait()
		r.s.SendHead(respond(200), false)
		r.s.SendData(make([]byte, 4096), false)
		go io.Copy(io.Discard, client)
		synctest.Wait()
		srv.Close()
		synctest.Wait()
		close(hold)
		<-done
		if got, want := strings.Join(events, " "), "head gone reset"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		client.Close()
	})
}

func TestClientStopsReadingWithoutCredit(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.keep = true
	r.s.SendHead(ask("GET", "/"), true)
	v.read("GET / HTTP/1.1\r\n")
	v.write("HTTP/1.1 200 OK\r\n\r\n")
	n := 0
	p := make([]byte, 1<<16)
	for n < 64<<20 {
		_ = v.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		m, err := v.nc.Write(p)
		if n += m; err != nil {
			break
		}
	}
	r.mu.Lock()
	held := r.body.Len()
	r.mu.Unlock()
	if n >= 64<<20 || held > readSize+highMark {
		t.Errorf("%d bytes were taken, %d are held", n, held)
	}
	r.s.Reset(codec.Cancel)
	v.ended()
}

// A response that was complete reaches a client that reads slowly, although the
// connection is to be closed; but not one that does not read at all.
func TestLastResponseIsWrittenToASlowClient(t *testing.T) {
	for _, c := range []struct {
		pause time.Duration // for each 64 KiB
		all   bool
	}{{20 * time.Second, true}, {40 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			const size = 1 << 20
			a := newApp(nil)
			client, nc := net.Pipe()
			srv := NewServer(relay.Plain(nc), a, Options{BufferLimit: 16 << 20})
			done := make(chan *codec.End)
			go func() { done <- srv.Serve() }()
			io.WriteString(client, get+"Connection: close\r\n\r\n")
			r := a.next(t)
			r.s.SendHead(respond(200, "content-length", "1048576"), false)
			r.s.SendData(make([]byte, size), true)
			got, buf := 0, make([]byte, 64<<10)
			for {
				time.Sleep(c.pause)
				n, err := io.ReadFull(client, buf)
				if got += n; err != nil {
					break
				}
			}
			if (got >= size) != c.all {
				t.Errorf("reading 64 KiB in %s got %d bytes", c.pause, got)
			}
			client.Close()
			<-done
		})
	}
}

// An idle connection holds no buffer.
func TestIdleConnectionHoldsNoBuffer(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	v.read(okText)
	c := v.srv.(*server).conn
	deadline := time.Now().Add(patience)
	for {
		c.mu.Lock()
		idle := c.parked && c.out.first == nil && c.out.size == 0
		c.mu.Unlock()
		if idle {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the writer never waits")
		}
	}
	v.srv.Close()
	v.ended() // the reader has ended: its fields are ours
	if c.in.buf != nil || c.in.pooled != nil {
		t.Error("there is a read buffer")
	}
}
