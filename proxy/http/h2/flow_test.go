package h2

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"outrider/proxy/http/codec"
)

// frames reads n frames and counts the bytes of DATA by stream.
func (r *raw) data(stop func(bytes map[uint32]int) bool) map[uint32]int {
	r.t.Helper()
	bytes := map[uint32]int{}
	for !stop(bytes) {
		var id uint32
		var n int
		f := r.next()
		if _, err := fmt.Sscanf(f, "DATA %d %d", &id, &n); err != nil {
			if strings.HasPrefix(f, "HEADERS") {
				continue
			}
			r.t.Fatalf("got %q, want DATA", f)
		}
		bytes[id] += n
	}
	return bytes
}

func TestDataWaitsForTheWindowsOfTheStreamAndTheConnection(t *testing.T) {
	q := newRecording(nil)
	r, srv := rawClient(t, q, Options{})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	r.get(1, true)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=true")
	sendHead(rec, 200, false)
	if got := rec.SendData(make([]byte, 100_000), true); got != 1000 {
		t.Errorf("at once: got %d bytes, want the window of 1000", got)
	}
	r.want("HEADERS 1 :status=200", "DATA 1 1000")
	if srv.BufferedAbove() {
		t.Error("99 KiB are above the limit of 1 MiB")
	}
	r.fr.WriteWindowUpdate(1, 500)
	r.want("DATA 1 500")
	r.sync()
	// A smaller initial window makes the stream's negative.
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	r.fr.WriteWindowUpdate(1, 1000)
	r.sync()
	r.fr.WriteWindowUpdate(1, 7)
	r.want("DATA 1 7")
	// The connection's window is 65535 in all.
	r.fr.WriteWindowUpdate(1, 1<<20)
	r.data(func(b map[uint32]int) bool { return b[1] == 65535-1507 })
	r.sync()
	r.fr.WriteWindowUpdate(0, 100_000)
	left := 100_000 - 65535
	r.data(func(b map[uint32]int) bool { return b[1] == left })
	rec.wait(t, "all gone", func([]string) bool { return rec.gone == 99_000 })
	if srv.Active() != 0 {
		t.Errorf("%d streams are open", srv.Active())
	}
	r.sync()
}

func TestWindowGivenBackIsWhatTheReceiverHasConsumed(t *testing.T) {
	q := newRecording(func(r *recorder) { r.keep = true })
	r, _ := rawClient(t, q, Options{InitialStreamWindow: 100_000, InitialConnWindow: 150_000})
	r.all = true
	r.want("SETTINGS", fmt.Sprintf("WINDOW_UPDATE 0 %d", 150_000-65535), "SETTINGS")
	r.get(1, false)
	fill(r, 6)
	rec := <-q.came
	rec.wait(t, "98304 bytes", func([]string) bool { return rec.bytes == 6*16384 })
	r.sync() // nothing was given back until now
	rec.Consumed(49_999)
	r.sync()
	rec.Consumed(1)
	r.want("WINDOW_UPDATE 1 50000")
	rec.Consumed(48_304 + 1_000_000) // more than there was counts as all
	r.want("WINDOW_UPDATE 0 98304")
	r.sync()
	fill(r, 3) // 51696 are left of the stream's window
	rec.wait(t, "147456 bytes", func([]string) bool { return rec.bytes == 9*16384 })
	r.fr.WriteData(1, false, make([]byte, 16384))
	r.want("RST 1 FLOW_CONTROL_ERROR")
}

func TestDataBeyondTheConnectionsWindowEndsIt(t *testing.T) {
	r, _ := rawClient(t, newRecording(echoing), Options{InitialConnWindow: 65535})
	hold(r, 1, false)
	fill(r, 3)
	hold(r, 3, false)
	r.fr.WriteData(3, false, make([]byte, 16383))
	r.sync()
	r.fr.WriteData(3, false, make([]byte, 1))
	r.want("GOAWAY 3 FLOW_CONTROL_ERROR", "EOF")
}

func TestPaddingIsGivenBackAtOnce(t *testing.T) {
	q := newRecording(echoing)
	r, _ := rawClient(t, q, Options{InitialConnWindow: 65535, InitialStreamWindow: 65535})
	hold(r, 1, false)
	for range 1000 { // four times the windows
		r.fr.WriteDataPadded(1, false, []byte("x"), make([]byte, 255))
	}
	rec := <-q.came
	rec.wait(t, "1000 bytes", func([]string) bool { return rec.bytes == 1000 })
	r.sync()
}

func TestResetGivesBackTheConnectionsWindow(t *testing.T) {
	for name, reset := range map[string]func(r *raw, rec *recorder){
		"by the client": func(r *raw, _ *recorder) { r.fr.WriteRSTStream(1, http2.ErrCodeCancel) },
		"by us":         func(_ *raw, rec *recorder) { rec.Reset(codec.Cancel) },
		"after it ended": func(r *raw, rec *recorder) {
			r.fr.WriteData(1, true, nil)
			rec.waitFor(r.t, "data 0 end=true")
			sendHead(rec, 200, true)
			rec.Reset(codec.Cancel)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newRecording(func(r *recorder) { r.keep = true })
			r, _ := rawClient(t, q, Options{InitialStreamWindow: 100_000, InitialConnWindow: 100_000})
			r.get(1, false)
			fill(r, 4)
			rec := <-q.came
			rec.wait(t, "65536 bytes", func([]string) bool { return rec.bytes == 4*16384 })
			r.all = true
			reset(r, rec)
			for {
				f := r.next()
				if f == "WINDOW_UPDATE 0 65536" {
					return
				}
				if strings.HasPrefix(f, "GOAWAY") || f == "EOF" {
					t.Fatalf("got %q, want the window back", f)
				}
			}
		})
	}
}

func TestDataOnAStreamThatWeResetIsIgnoredAndGivenBack(t *testing.T) {
	q := newRecording(func(r *recorder) { r.keep = true })
	r, _ := rawClient(t, q, Options{InitialStreamWindow: 65535, InitialConnWindow: 65535})
	r.get(1, false)
	(<-q.came).Reset(codec.Cancel)
	r.want("RST 1 CANCEL")
	for range 20 { // more than the connection's window, in all
		r.fr.WriteData(1, false, make([]byte, 16384))
		r.sync()
	}
	r.headers(1, true, "late", "trailers")
	r.sync()
}

func TestStreamsShareTheConnectionInTurn(t *testing.T) {
	q := newRecording(nil)
	r, _ := rawClient(t, q, Options{})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	for id := uint32(1); id < 9; id += 2 {
		r.get(id, true)
		rec := <-q.came
		rec.waitFor(t, "head GET http x / [] end=true")
		sendHead(rec, 200, false)
		rec.SendData(make([]byte, 1<<20), true)
	}
	r.data(func(b map[uint32]int) bool { return b[1]+b[3] == 65535 }) // the first took the window
	r.fr.WriteWindowUpdate(0, 800_000)
	got := r.data(func(b map[uint32]int) bool { return b[1]+b[3]+b[5]+b[7] == 800_000 })
	for id, n := range got {
		if n < 150_000 || n > 250_000 {
			t.Errorf("stream %d got %d of 800000 bytes, want about a quarter", id, n)
		}
	}
}

// A client that reads nothing costs the windows of the upstream at most.
func TestSlowReaderHoldsNoMoreThanTheWindow(t *testing.T) {
	const window = 1 << 20
	sent := make(chan int, 1)
	upClient, upServer := tcpPair(t)
	o := Options{InitialStreamWindow: window, InitialConnWindow: window, BufferLimit: window / 4}
	client, down := tcpPair(t)
	wait, srv, _ := startBridge(t, down, upClient, o)
	t.Cleanup(func() { client.Close(); upServer.Close(); wait() })
	us := newRaw(t, upServer)
	us.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(upServer, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	us.fr.WriteSettings()

	dc := newRaw(t, client)
	client.Write([]byte(preface))
	dc.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	dc.fr.WriteWindowUpdate(0, 1<<30)
	dc.get(1, true)
	us.want("HEADERS 1 :method=GET :scheme=http :path=/ :authority=x end")
	us.headers(1, false, ":status", "200")
	us.all = true
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	go func() { // as a server that keeps to the window would
		n, room := 0, window
		streamRoom := window
		for {
			for room >= 16384 && streamRoom >= 16384 {
				us.fr.WriteData(1, false, make([]byte, 16384))
				n += 16384
				room -= 16384
				streamRoom -= 16384
			}
			upServer.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			f, err := us.fr.ReadFrame()
			if err != nil {
				sent <- n
				return
			}
			if w, ok := f.(*http2.WindowUpdateFrame); ok {
				if w.StreamID == 0 {
					room += int(w.Increment)
				} else {
					streamRoom += int(w.Increment)
				}
			}
		}
	}()
	n := <-sent
	runtime.ReadMemStats(&after)
	if !srv.BufferedAbove() {
		t.Errorf("%d bytes were taken, and nothing is above the limit", n)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4*window {
		t.Errorf("the heap has grown by %d bytes for a window of %d", grown, window)
	}
	if n > 32<<20 { // what the sockets hold, and the window
		t.Errorf("%d bytes were taken", n)
	}
}

func TestTrailersFollowTheDataThatWaits(t *testing.T) {
	q := newRecording(nil)
	r, _ := rawClient(t, q, Options{})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.get(1, true)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=true")
	sendHead(rec, 200, false)
	rec.SendData([]byte("0123456789abc"), false)
	fields := fieldsOf("grpc-status", "0")
	rec.SendTrailers(fields)
	fields[0].Value = "changed after"
	r.want("HEADERS 1 :status=200", "DATA 1 10")
	r.fr.WriteWindowUpdate(1, 10)
	r.want("DATA 1 3", "HEADERS 1 grpc-status=0 end")
}

func TestResetOfACompleteResponseLetsItThrough(t *testing.T) {
	q := newRecording(nil)
	r, srv := rawClient(t, q, Options{})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	r.get(1, false)
	rec := <-q.came
	rec.waitFor(t, "head GET http x / [] end=false")
	sendHead(rec, 200, false)
	rec.SendData([]byte("0123456789abc"), true)
	rec.Reset(codec.NoError)
	r.want("HEADERS 1 :status=200", "DATA 1 10")
	r.fr.WriteWindowUpdate(1, 10)
	r.want("DATA 1 3 end", "RST 1 NO_ERROR")
	if srv.Active() != 0 {
		t.Errorf("%d streams are open", srv.Active())
	}
	for _, l := range rec.lines() {
		if l == "gone" || strings.HasPrefix(l, "reset") {
			t.Errorf("after Reset the receiver heard %q", l)
		}
	}
}

// blocking is a Receiver whose OnGone takes its time.
type blocking struct {
	*recorder
	entered, leave chan struct{}
}

func (b *blocking) OnGone(n int) {
	close(b.entered)
	<-b.leave
	b.recorder.OnGone(n)
}

type blockingServer struct{ b *blocking }

func (q *blockingServer) Request(s codec.Sender) codec.Receiver {
	q.b.Sender = s
	return q.b
}
func (*blockingServer) Idle() {}

func TestResetIsToldAfterOnGoneHasReturned(t *testing.T) {
	b := &blocking{newRecorder(), make(chan struct{}), make(chan struct{})}
	r, srv := rawClient(t, &blockingServer{b}, Options{})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	r.get(1, true)
	b.waitFor(t, "head GET http x / [] end=true")
	sendHead(b, 200, false)
	b.SendData([]byte("abc"), false)
	r.fr.WriteWindowUpdate(1, 1)
	<-b.entered
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	for srv.Active() != 0 {
		time.Sleep(time.Millisecond)
	}
	close(b.leave)
	b.waitFor(t, "reset 1 http2.remote_reset")
	if got, want := fmt.Sprint(b.lines()[1:]), "[gone reset 1 http2.remote_reset]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// early is a Requests that answers before it has a receiver.
type early struct{ r *recorder }

func (q *early) Request(s codec.Sender) codec.Receiver {
	q.r.Sender = s
	sendHead(s, 503, false)
	s.SendData(make([]byte, 200_000), true)
	time.Sleep(time.Second)
	return q.r
}
func (*early) Idle() {}

func TestAnswerBeforeTheReceiverIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &early{newRecorder()}
		r, _ := rawClient(t, q, Options{})
		r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		r.fr.WriteWindowUpdate(0, 1<<20)
		r.get(1, true)
		r.data(func(b map[uint32]int) bool { return b[1] == 200_000 })
		time.Sleep(2 * time.Second) // until Request has returned
		synctest.Wait()
		if q.r.gone < 100_000 {
			t.Errorf("%d bytes were said to be gone", q.r.gone)
		}
		r.nc.Close()
		<-r.end
	})
}
