package h2

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// values are the counters that are not zero, by name.
func values(t *testing.T, r *stats.Registry) map[string]string {
	t.Helper()
	var b strings.Builder
	if err := r.Text(&b, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(b.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if value != "0" {
			out[strings.TrimPrefix(name, "http2.")] = value
		}
	}
	return out
}

func TestFloodsEndTheConnectionAndAreCounted(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(r *raw)
		stat string
	}{
		"PING": {func(r *raw) {
			for range 2000 {
				r.fr.WritePing(false, [8]byte{})
			}
		}, "outbound_control_flood"},
		"SETTINGS": {func(r *raw) {
			for range 2000 {
				r.fr.WriteSettings()
			}
		}, "outbound_control_flood"},
		"requests that are refused": {func(r *raw) {
			hold(r, 1, true)
			for id := uint32(3); id < 5000; id += 2 {
				hold(r, id, true)
			}
		}, "outbound_control_flood"},
		"empty DATA": {func(r *raw) {
			hold(r, 1, false)
			r.fr.WriteData(1, false, nil)
			r.fr.WriteData(1, false, nil)
		}, "inbound_empty_frames_flood"},
		"DATA of padding alone": {func(r *raw) {
			hold(r, 1, false)
			r.fr.WriteDataPadded(1, false, nil, make([]byte, 10))
			r.fr.WriteDataPadded(1, false, nil, make([]byte, 10))
		}, "inbound_empty_frames_flood"},
		"empty CONTINUATION": {func(r *raw) {
			part(r, 1)
			r.fr.WriteContinuation(1, false, nil)
			r.fr.WriteContinuation(1, false, nil)
		}, "inbound_empty_frames_flood"},
		"PRIORITY": {func(r *raw) {
			for range 101 {
				r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
			}
		}, "inbound_priority_frames_flood"},
		"WINDOW_UPDATE": {func(r *raw) {
			for range 6 {
				r.fr.WriteWindowUpdate(0, 1)
			}
		}, "inbound_window_update_frames_flood"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			cn, sn := memoryPair(t)
			sn.(*memoryConn).out.limit = 1 // the client reads nothing
			r := newRaw(t, cn)
			s := NewServer(sn.(*memoryConn), newRecording(echoing), Options{Stats: NewStats(reg.Root()), MaxConcurrentStreams: 1})
			r.run(func() *codec.End { return s.Serve() })
			cn.(*memoryConn).out.limit = 1 << 30
			io.WriteString(cn, preface)
			r.fr.WriteSettings()
			c.do(r)
			end := <-r.end
			if end.By != codec.ByUs || end.Err == nil {
				t.Errorf("got %+v", end)
			}
			if got := values(t, reg); got[c.stat] != "1" {
				t.Errorf("got %v, want %s 1", got, c.stat)
			}
		})
	}
}

func TestFramesWithinTheLimitsAreTaken(t *testing.T) {
	r, _ := rawClient(t, newRecording(echoing), Options{})
	for range 100 {
		r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
	}
	for range 5 {
		r.fr.WriteWindowUpdate(0, 1)
	}
	r.sync()
	for id := uint32(1); id < 200; id += 2 {
		r.get(id, false)
		r.fr.WriteData(id, false, nil)
		r.fr.WriteData(id, true, nil)
		r.fr.WriteWindowUpdate(0, 100)
		r.fr.WriteWindowUpdate(0, 100)
		r.want(fmt.Sprintf("HEADERS %d :status=200", id), fmt.Sprintf("DATA %d 2 end", id))
	}
}

// A client that opens streams and resets them at once (CVE-2023-44487).
func TestRapidResetEndsTheConnection(t *testing.T) {
	reg := stats.New()
	count := reg.Root().Counter("downstream_rq_too_many_premature_resets")
	r, _ := rawClient(t, newRecording(nil), Options{PrematureResets: count, Stats: NewStats(reg.Root())})
	for id := uint32(1); id < 1000; id += 2 {
		r.get(id, true)
		r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	end := <-r.end
	if end.Err == nil || count.Value() != 1 {
		t.Errorf("got %+v and %d connections counted", end, count.Value())
	}
	if end.Requests != 250 {
		t.Errorf("got %d requests, want the half of 500", end.Requests)
	}
}

func TestSlowResetsAreNotPremature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRecording(nil)
		r, _ := rawClient(t, q, Options{})
		for id := uint32(1); id < 1500; id += 2 {
			r.get(id, true)
			if id%4 == 1 {
				time.Sleep(time.Second)
			} else {
				sendHead(<-q.came, 200, false)
				r.want(fmt.Sprintf("HEADERS %d :status=200", id))
				r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
				continue
			}
			<-q.came
			r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		r.sync()
		r.nc.Close()
		<-r.end
	})
}

func TestResetsBeyondTheRateEndTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRecording(func(rec *recorder) { // responses begin, so that no reset is premature
			rec.onHead = func(*recorder, *message.Head, bool) { sendHead(rec, 200, false) }
		})
		r, _ := rawClient(t, q, Options{StreamResetBurst: 100, StreamResetRate: 10})
		id := uint32(1)
		resets := func(n int) {
			for range n {
				r.get(id, true)
				r.want(fmt.Sprintf("HEADERS %d :status=200", id))
				r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
				id += 2
			}
			r.sync()
		}
		resets(100)
		time.Sleep(5 * time.Second)
		resets(50)
		time.Sleep(time.Hour) // gives no more than the burst back
		resets(100)
		r.get(id, true)
		r.want(fmt.Sprintf("HEADERS %d :status=200", id))
		r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		r.want(fmt.Sprintf("GOAWAY %d INTERNAL_ERROR", id), "EOF")
		r.nc.Close()
		<-r.end
	})
}

// CONTINUATION frames without an end (CVE-2024-27316).
func TestEndlessHeaderBlockEndsTheConnection(t *testing.T) {
	for name, size := range map[string]int{"large": 16384, "small": 1} {
		t.Run(name, func(t *testing.T) {
			r, _ := rawClient(t, newRecording(nil), Options{})
			part(r, 1)
			piece := make([]byte, size)
			go func() {
				for range 1000 {
					if r.fr.WriteContinuation(1, false, piece) != nil {
						return
					}
				}
			}()
			r.want("GOAWAY 0 ENHANCE_YOUR_CALM", "EOF")
		})
	}
}

func TestHeaderBlockOverTheLimitEndsTheConnection(t *testing.T) {
	r, _ := rawClient(t, newRecording(nil), Options{MaxHeaderBytes: 1000})
	part(r, 1)
	r.fr.WriteContinuation(1, false, make([]byte, 16384))
	r.fr.WriteContinuation(1, false, make([]byte, 2001))
	r.want("GOAWAY 0 ENHANCE_YOUR_CALM", "EOF")
}

func TestHeadOverTheLimitsEndsItsStreamAlone(t *testing.T) {
	reg := stats.New()
	q := newRecording(echoing)
	r, _ := rawClient(t, q, Options{MaxHeaders: 10, MaxHeaderBytes: 200, Stats: NewStats(reg.Root())})
	r.get(1, true, "a", "1", "b", "1", "c", "1", "d", "1", "e", "1", "f", "1", "g", "1")
	r.want("RST 1 INTERNAL_ERROR")
	(<-q.came).waitFor(t, "reset 3 "+detailTooMany)
	r.get(3, true, "a", strings.Repeat("x", 200))
	r.want("RST 3 INTERNAL_ERROR")
	<-q.came
	r.get(5, true, "a", strings.Repeat("x", 150)) // the table is in step
	r.want("HEADERS 5 :status=200", "DATA 5 2 end")
	<-q.came
	hold(r, 7, false)
	r.headers(7, true, "a", strings.Repeat("y", 201))
	r.want("RST 7 INTERNAL_ERROR")
	r.sync()
	if got := values(t, reg); got["header_overflow"] != "3" || got["tx_reset"] != "3" {
		t.Errorf("got %v", got)
	}
}

// A block that names one large field many times is not kept (HPACK bomb).
func TestBombOfIndexedFieldsIsNotKept(t *testing.T) {
	r, _ := rawClient(t, newRecording(nil), Options{})
	block := r.fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x", "a", strings.Repeat("x", 4000))
	for range 16000 - len(block) {
		block = append(block, 0xbe) // the newest of the table
	}
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
	r.want("RST 1 INTERNAL_ERROR")
	r.sync()
}

func TestStatsFollowTheStreams(t *testing.T) {
	reg := stats.New()
	q := newRecording(nil)
	r, _ := rawClient(t, q, Options{Stats: NewStats(reg.Root())})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.get(1, false)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=false")
	sendHead(rec, 200, false)
	rec.SendData(make([]byte, 30), false)
	r.want("HEADERS 1 :status=200", "DATA 1 10")
	r.headers(1, true, "a", "b")
	r.sync()
	got := values(t, reg)
	for name, want := range map[string]string{"streams_active": "1", "pending_send_bytes": "20", "trailers": "1"} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %s", name, got[name], want)
		}
	}
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	rec.waitFor(t, "reset 1 http2.remote_reset")
	r.nc.Close()
	<-r.end
	got = values(t, reg)
	delete(got, "trailers")
	delete(got, "rx_reset")
	if len(got) != 0 {
		t.Errorf("after the end: got %v", got)
	}
}

func TestKeepaliveEndsAConnectionThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := stats.New()
		r, _ := rawClient(t, newRecording(nil), Options{
			KeepaliveInterval: 10 * time.Second, KeepaliveTimeout: 3 * time.Second, KeepaliveJitterPercent: -1, Stats: NewStats(reg.Root()),
		})
		began := time.Now()
		r.want("PING ack=false outrider")
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("first ping after %s", d)
		}
		time.Sleep(time.Second)
		r.fr.WritePing(true, [8]byte([]byte("outrider")))
		time.Sleep(9 * time.Second)
		r.get(1, true) // other frames do not put the ping off
		synctest.Wait()
		began = time.Now()
		r.nc.SetReadDeadline(time.Time{})
		r.want("PING ack=false outrider")
		if d := time.Since(began); d != time.Second {
			t.Errorf("next ping after %s more", d)
		}
		time.Sleep(2 * time.Second)
		r.get(3, true) // but whoever sends is there
		time.Sleep(2 * time.Second)
		if len(r.end) != 0 {
			t.Fatal("ended though frames come")
		}
		time.Sleep(time.Second)
		end := <-r.end
		if end.By != codec.ByUs || end.Err == nil || values(t, reg)["keepalive_timeout"] != "1" {
			t.Errorf("got %+v, %v", end, values(t, reg))
		}
	})
}

func TestClientPingsBeforeAStreamAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, cl := rawServer(t, &pool{}, Options{KeepaliveIdle: 10 * time.Second, KeepaliveTimeout: 3 * time.Second})
		sendRequest(open(t, cl), "GET", true)
		r.want(sentGet)
		time.Sleep(11 * time.Second)
		rec := open(t, cl)
		sendRequest(rec, "GET", true)
		r.want("PING ack=false outrider", strings.Replace(sentGet, "1", "3", 1))
		time.Sleep(4 * time.Second)
		rec.wait(t, "reset", func(log []string) bool { return len(log) == 1 })
		<-r.end
	})
}

func TestIdleConnectionHoldsNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv := rawClient(t, newRecording(echoing), Options{})
		c := srv.(*server).conn
		for id := uint32(1); id < 20; id += 2 {
			r.get(id, true)
			r.next()
			r.next()
			synctest.Wait()
			c.mu.Lock()
			if c.in.buf != nil || c.out != nil || c.block.bytes != nil || len(c.streams) != 0 {
				t.Errorf("after stream %d a buffer is held", id)
			}
			c.mu.Unlock()
		}
		r.nc.Close()
		<-r.end
	})
}
