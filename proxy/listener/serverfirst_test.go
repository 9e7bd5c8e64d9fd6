package listener

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// fakeServer is watched by hand: the test gets done, and calls it.
type fakeServer struct {
	patience time.Duration
	nobody   bool
	watched  chan func(bool)
}

func newFakeServer() *fakeServer { return &fakeServer{watched: make(chan func(bool), 1)} }

func (f *fakeServer) Patience() time.Duration { return f.patience }

func (f *fakeServer) Watch(done func(bool)) bool {
	if f.nobody {
		return false
	}
	f.watched <- done
	return true
}

// never fails the test when it is asked.
type never struct{ t *testing.T }

func (n never) Patience() time.Duration { return 0 }
func (n never) Watch(func(bool)) bool {
	n.t.Error("the server is dialled")
	return false
}

type sniffed struct {
	serverFirst bool
	err         error
}

func (r *rig) watching(ctx context.Context, c net.Conn, s Server) (*flow.Info, chan sniffed) {
	info, done := newInfo(c), make(chan sniffed, 1)
	go func() {
		first, err := r.RunWatching(ctx, c, info, s)
		done <- sniffed{first, err}
	}()
	return info, done
}

// usable says that no deadline is left on c: a byte that comes later arrives.
func usable(t *testing.T, client, server net.Conn) {
	t.Helper()
	send(t, client, []byte("x"))
	b := make([]byte, 1)
	if _, err := server.Read(b); err != nil || b[0] != 'x' {
		t.Errorf("reading afterwards: %q, %v; want the byte that the client sent", b, err)
	}
}

func TestServerThatSpeaksFirstEndsTheSniff(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"with a timeout": forever, "without a timeout": 0} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: timeout}, tlsFilter, httpFilter)
			client, server := pair(t)
			s := newFakeServer()
			s.patience = time.Millisecond
			info, done := r.watching(t.Context(), server, s)
			(<-s.watched)(true)
			if got := <-done; !got.serverFirst || got.err != nil || info.TransportProtocol != "raw_buffer" {
				t.Fatalf("got %+v as %q, want server first as raw_buffer", got, info.TransportProtocol)
			}
			usable(t, client, server)
		})
	}
}

func TestClientThatSpeaksIsNotAskedAbout(t *testing.T) {
	hello := captured(t)
	for name, cut := range map[string]int{"a hello that is there": len(hello), "a hello in two pieces around the wait": 3} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
			client, server := pair(t)
			send(t, client, hello[:cut])
			info, done := r.watching(t.Context(), server, never{t})
			if cut < len(hello) {
				r.waits(t, 1)
				send(t, client, hello[cut:])
			}
			got := <-done
			wantTLS(t, info, got.err)
			if got.serverFirst {
				t.Error("the server is said to have been first")
			}
		})
	}
}

func TestHelloWinsOverWhatTheServerSays(t *testing.T) {
	hello := captured(t)
	for name, timeout := range map[string]time.Duration{"with a timeout": forever, "without a timeout": 0} {
		for when, early := range map[string]bool{"before the server speaks": true, "half before, half after": false} {
			t.Run(name+", "+when, func(t *testing.T) {
				r := newRig(t, config.Listener{FiltersTimeout: timeout}, tlsFilter)
				client, server := pair(t)
				s := newFakeServer()
				info, done := r.watching(t.Context(), server, s)
				spoke := <-s.watched
				if early {
					send(t, client, hello)
					spoke(true)
				} else {
					send(t, client, hello[:7])
					time.Sleep(5 * time.Millisecond) // most often it is the rest that is waited for by then
					spoke(true)
					send(t, client, hello[7:])
				}
				got := <-done
				wantTLS(t, info, got.err)
				if got.serverFirst {
					t.Error("the server is said to have been first")
				}
			})
		}
	}
}

func TestServerThatSaysNothingLeavesTheSniffAsItIs(t *testing.T) {
	hello := captured(t)
	for name, begin := range map[string]func(*fakeServer){
		"nobody to dial": func(s *fakeServer) { s.nobody = true },
		"dial failed":    func(s *fakeServer) { go func() { (<-s.watched)(false) }() },
		"dial hangs":     func(s *fakeServer) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
			client, server := pair(t)
			s := newFakeServer()
			begin(s)
			info, done := r.watching(t.Context(), server, s)
			r.waits(t, 1)
			send(t, client, hello)
			wantTLS(t, info, (<-done).err)
		})
	}
}

func TestFiltersTimeoutHoldsIfNobodySpeaks(t *testing.T) {
	for name, patience := range map[string]time.Duration{"while the server is watched": 0, "before it is asked": time.Hour} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: 50 * time.Millisecond}, tlsFilter)
			_, server := pair(t)
			s := newFakeServer()
			s.patience = patience
			_, done := r.watching(t.Context(), server, s)
			got := <-done
			var e *Error
			if !errors.As(got.err, &e) || e.Reason != Timeout || got.serverFirst {
				t.Fatalf("got %+v, want a timeout", got)
			}
			if asked := len(s.watched) == 1; asked != (patience == 0) {
				t.Errorf("asked: %v", asked)
			}
		})
	}
}

func TestHalfClosedClientWaitsForTheServer(t *testing.T) {
	for name, c := range map[string]struct {
		spoke bool
		want  Reason
	}{"that speaks": {spoke: true}, "that says nothing": {want: RemoteClose}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
			client, server := pair(t)
			s := newFakeServer()
			_, done := r.watching(t.Context(), server, s)
			spoke := <-s.watched
			client.CloseWrite()
			spoke(c.spoke)
			got := <-done
			var e *Error
			if got.serverFirst != c.spoke || !c.spoke && (!errors.As(got.err, &e) || e.Reason != c.want) {
				t.Fatalf("got %+v, want server first %v, %q", got, c.spoke, c.want)
			}
		})
	}
}

func TestClientThatClosesBeforeTheServerIsAskedIsNotAskedAbout(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	client.CloseWrite()
	_, done := r.watching(t.Context(), server, never{t})
	var e *Error
	if got := <-done; !errors.As(got.err, &e) || e.Reason != RemoteClose {
		t.Fatalf("got %+v, want %q", got, RemoteClose)
	}
}

// What else decides the destination must be known before somebody is dialled.
func TestServerIsNotAskedBeforeTheDestinationIsKnown(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: 20 * time.Millisecond, ContinueOnTimeout: true}, tlsFilter, &config.ListenerFilter{Name: "dst", OriginalDst: &config.OriginalDst{}})
	_, server := pair(t)
	_, done := r.watching(t.Context(), server, never{t})
	if got := <-done; got.err != nil || got.serverFirst {
		t.Fatalf("got %+v, want to go on after the timeout", got)
	}
}

func TestServerIsNotAskedWithoutATLSInspector(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: 20 * time.Millisecond, ContinueOnTimeout: true}, httpFilter)
	_, server := pair(t)
	_, done := r.watching(t.Context(), server, never{t})
	if got := <-done; got.err != nil || got.serverFirst {
		t.Fatalf("got %+v, want to go on after the timeout", got)
	}
}

func TestEndOfTheServerEndsAWatchedSniff(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newFakeServer()
	_, done := r.watching(ctx, server, s)
	<-s.watched
	client.CloseWrite() // the harder case: it waits for the server alone
	over := errors.New("over")
	cancel(over)
	if got := <-done; !errors.Is(got.err, over) {
		t.Fatalf("got %+v, want %v", got, over)
	}
}
