package h2

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"outrider/proxy/http/codec"
)

func TestDrainTakesWhatIsOnItsWayAndEndsWithTheLastStream(t *testing.T) {
	q := newRecording(echoing)
	r, srv := rawClient(t, q, Options{})
	hold(r, 1, true)
	first := <-q.came
	srv.Drain(false)
	r.want("GOAWAY 2147483647 NO_ERROR")
	r.get(3, true)
	r.want("HEADERS 3 :status=200", "DATA 3 2 end")
	<-q.came
	srv.Drain(true)
	srv.Drain(true)
	r.want("GOAWAY 3 NO_ERROR")
	r.get(5, false) // too late: ignored
	r.fr.WriteData(5, true, []byte("x"))
	r.sync()
	if len(q.came) != 0 {
		t.Error("a request was taken after the last GOAWAY")
	}
	sendHead(first, 204, true)
	r.want("HEADERS 1 :status=204 end", "EOF")
	r.nc.Close()
	end := <-r.end
	if end.By != codec.ByUs || end.Err != nil || end.Requests != 2 || end.BytesRead == 0 || end.LastRead.IsZero() {
		t.Errorf("got %+v", end)
	}
	if q.idles == 0 {
		t.Error("Idle was not called")
	}
}

// A response that is complete goes out, however slowly it is read.
func TestDrainWaitsForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := memoryPair(t)
		sn.(*memoryConn).out.limit = 100
		q := newRecording(nil)
		srv := NewServer(asSide(sn), q, Options{})
		r := newRaw(t, cn)
		r.run(func() *codec.End { return srv.Serve() })
		io.WriteString(cn, preface)
		r.fr.WriteSettings()
		r.get(1, true)
		rec := <-q.came
		rec.waitFor(t, "head GET http x / [] end=true")
		synctest.Wait()
		sendHead(rec, 200, false)
		rec.SendData(make([]byte, 10_000), false)
		synctest.Wait()
		rec.SendData(make([]byte, 20_000), true)
		srv.Drain(true)
		time.Sleep(time.Minute)
		r.want("HEADERS 1 :status=200", "DATA 1 10000", "DATA 1 16384", "DATA 1 3616 end", "GOAWAY 1 NO_ERROR", "EOF")
		r.nc.Close()
		if end := <-r.end; end.By != codec.ByUs || end.Err != nil {
			t.Errorf("got %+v", end)
		}
	})
}

func TestGoAwayEndsTheClientWithItsLastStream(t *testing.T) {
	p := &pool{}
	drained := make(chan struct{}, 100)
	p.changed = func() { drained <- struct{}{} }
	r, cl := rawServer(t, p, Options{})
	a, b, unsent := open(t, cl), open(t, cl), open(t, cl)
	sendRequest(a, "GET", true)
	sendRequest(b, "GET", true)
	r.want(sentGet, strings.Replace(sentGet, "1", "3", 1))
	r.fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
	b.waitFor(t, "reset 4 http2.remote_refuse")
	<-drained
	if !cl.Draining() || cl.Room() != 0 {
		t.Error("the client takes requests after GOAWAY")
	}
	if _, err := cl.Open(newRecorder()); !errors.Is(err, codec.ErrUnavailable) {
		t.Errorf("open: got %v", err)
	}
	sendRequest(unsent, "GET", true) // its head comes after the GOAWAY
	unsent.waitFor(t, "reset 4 ")
	if x := b.resets[0]; !x.Remote || x.Reason != codec.Refused {
		t.Errorf("got %+v", x)
	}
	r.headers(1, true, ":status", "200")
	a.waitFor(t, "head 200 [] end=true")
	r.want("EOF")
	r.nc.Close()
	if end := <-r.end; end.By != codec.ByUs || !end.GoAway || end.Requests != 2 {
		t.Errorf("got %+v", end)
	}
	if p.drained != 1 {
		t.Errorf("Drained was called %d times", p.drained)
	}
}

func TestEndSaysWhatTheServersGoAwayWasFor(t *testing.T) {
	r, cl := rawServer(t, &pool{}, Options{})
	rec := open(t, cl)
	sendRequest(rec, "GET", true)
	r.want(sentGet)
	r.fr.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
	r.sync()
	r.nc.Close()
	end := <-r.end
	if end.By != codec.ByFIN || !end.GoAway || end.Err == nil || !strings.Contains(end.Err.Error(), "too_many_pings") {
		t.Errorf("got %+v", end)
	}
	if x := rec.resets[0]; x.Reason != codec.Closed || x.End == nil || !x.Remote {
		t.Errorf("got reset %+v", x)
	}
}

func TestEndSaysWhoClosed(t *testing.T) {
	for name, c := range map[string]struct {
		do  func(nc *net.TCPConn, s codec.Server)
		by  codec.Closer
		err bool
	}{
		"FIN":               {func(nc *net.TCPConn, _ codec.Server) { nc.CloseWrite() }, codec.ByFIN, false},
		"FIN in a frame":    {func(nc *net.TCPConn, _ codec.Server) { nc.Write([]byte{0, 0, 9}); nc.CloseWrite() }, codec.ByFIN, true},
		"RST":               {func(nc *net.TCPConn, _ codec.Server) { nc.SetLinger(0); nc.Close() }, codec.ByRST, true},
		"Close":             {func(_ *net.TCPConn, s codec.Server) { s.Close() }, codec.ByUs, false},
		"a mistake":         {func(nc *net.TCPConn, _ codec.Server) { nc.Write(make([]byte, 9)) }, codec.ByUs, true},
		"Close after Drain": {func(_ *net.TCPConn, s codec.Server) { s.Drain(true); s.Close() }, codec.ByUs, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, near := tcpPair(t)
			q := newRecording(nil)
			s := NewServer(asSide(near), q, Options{CloseDelay: time.Millisecond})
			r := newRaw(t, client)
			r.run(func() *codec.End { return s.Serve() })
			io.WriteString(client, preface)
			r.fr.WriteSettings()
			r.get(1, false)
			rec := <-q.came
			rec.waitFor(t, "head GET http x / [] end=false")
			c.do(client.(*net.TCPConn), s)
			end := <-r.end
			if end.By != c.by {
				t.Errorf("got %s (%v), want %s", end.By, end.Err, c.by)
			}
			if (end.Err != nil) != c.err {
				t.Errorf("error: got %v", end.Err)
			}
			if len(rec.resets) != 1 || rec.resets[0].End != end && rec.resets[0].End == nil {
				t.Fatalf("got %+v, want one reset with the end", rec.resets)
			}
			if x := rec.resets[0]; x.Reason != codec.Closed && name != "a mistake" {
				t.Errorf("got reset %+v", x)
			}
			rec.SendData([]byte("late"), false)
			rec.Reset(codec.Cancel)
			rec.Consumed(1)
			s.Close()
			s.Drain(true)
			if s.(*server).out != nil {
				t.Error("something waits to be written after the end")
			}
		})
	}
}

func TestCloseWritesWhatIsBuffered(t *testing.T) {
	q := newRecording(nil)
	r, srv := rawClient(t, q, Options{})
	r.get(1, true)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=true")
	sendHead(rec, 200, false)
	rec.SendData(make([]byte, 30000), true)
	srv.Close()
	r.want("HEADERS 1 :status=200", "DATA 1 16384", "DATA 1 13616 end", "EOF")
}

func TestStuckPeerDoesNotHoldTheEnd(t *testing.T) {
	client, server := tcpPair(t) // never read from
	q := newRecording(nil)
	s := NewServer(asSide(server), q, Options{})
	r := newRaw(t, client)
	r.run(func() *codec.End { return s.Serve() })
	io.WriteString(client, preface)
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	r.fr.WriteWindowUpdate(0, 1<<30)
	r.get(1, true)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=true")
	sendHead(rec, 200, false)
	for range 100 {
		rec.SendData(make([]byte, 1<<20), false)
	}
	began := time.Now()
	s.Close()
	<-r.end
	if d := time.Since(began); d > 3*flushTime {
		t.Errorf("the end took %s", d)
	}
}
