package listener

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		shortOfDescriptors()
		return
	}
	goleak.VerifyTestMain(m)
}

// forever stands for a timeout that the test must not need.
const forever = time.Hour

// rig is a listener's filters with what they count.
type rig struct {
	*Filters
	registry *stats.Registry
	waiting  *Waiting
}

func newRig(tb testing.TB, cfg config.Listener, filters ...*config.ListenerFilter) *rig {
	tb.Helper()
	r := &rig{registry: stats.New(), waiting: NewWaiting(100)}
	cfg.Filters = filters
	scope := r.registry.Scope("listener").Tagged("envoy_listener_address", "a")
	f, err := Compile(&cfg, Deps{Stats: r.registry, Listener: scope, Waiting: r.waiting})
	if err != nil {
		tb.Fatal(err)
	}
	r.Filters = f
	return r
}

// wantCounts compares every counter of the filters that is not zero.
func (r *rig) wantCounts(t *testing.T, want string) {
	t.Helper()
	var text strings.Builder
	if err := r.registry.Text(&text, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(text.String(), "\n") {
		if line != "" && !strings.Contains(line, "pre_cx_active") && !strings.Contains(line, "bytes_processed") {
			got = append(got, strings.TrimSuffix(line, ": 1"))
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("counters: %q, want %q", strings.Join(got, " "), want)
	}
}

var (
	tlsFilter   = &config.ListenerFilter{Name: "tls", TLSInspector: &config.TLSInspector{}}
	httpFilter  = &config.ListenerFilter{Name: "http", HTTPInspector: &config.HTTPInspector{}}
	proxyFilter = &config.ListenerFilter{Name: "proxy", ProxyProtocol: &config.ProxyProtocol{}}
)

// pair is a TCP connection over loopback.
func pair(tb testing.TB) (client, server *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func newInfo(c net.Conn) *flow.Info {
	info := &flow.Info{TransportProtocol: "raw_buffer"}
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		info.Local.AddrPort, info.Remote.AddrPort = a.AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	}
	info.DirectLocal, info.DirectRemote = info.Local, info.Remote
	return info
}

// run is Run in the background.
func (r *rig) run(ctx context.Context, c net.Conn) (*flow.Info, chan error) {
	info, done := newInfo(c), make(chan error, 1)
	go func() { done <- r.Run(ctx, c, info) }()
	return info, done
}

// waits returns when n connections wait.
func (r *rig) waits(t *testing.T, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d connections wait", n), func() bool { return r.waiting.Count() == n })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); runtime.Gosched() {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

func send(tb testing.TB, c net.Conn, b []byte) {
	tb.Helper()
	if _, err := c.Write(b); err != nil {
		tb.Fatal(err)
	}
}

// captured is the ClientHello that crypto/tls sends: with a post-quantum key
// share, more than one segment of an Ethernet.
// records splits the one record of b into records of n bytes.
func TestFiltersWorkOnUnixSockets(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hello := captured(t)
	send(t, client, hello[:100])
	r := newRig(t, config.Listener{FiltersTimeout: forever}, &config.ListenerFilter{Name: "o", OriginalDst: &config.OriginalDst{}}, tlsFilter)
	info, done := r.run(t.Context(), server)
	r.waits(t, 1)
	send(t, client, hello[100:])
	wantTLS(t, info, <-done)

	info, done = r.run(t.Context(), server)
	wantTLS(t, info, <-done)
	client.(*net.UnixConn).CloseWrite()
	io.ReadAll(server)
	if _, done = r.run(t.Context(), server); reasonOf(<-done) != RemoteClose {
		t.Error("the end of a unix connection is not seen")
	}
}

func reasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// big is a hello of n bytes in all, padded (RFC 7685).
func TestAClientThatEndsEarlyIsKnownAtOnce(t *testing.T) {
	for _, sent := range []int{0, 1, 100} {
		for _, before := range []bool{true, false} {
			r := newRig(t, config.Listener{FiltersTimeout: forever, ContinueOnTimeout: true}, tlsFilter)
			client, server := pair(t)
			send(t, client, captured(t)[:sent])
			if before {
				client.CloseWrite()
			}
			_, done := r.run(t.Context(), server)
			if !before {
				r.waits(t, 1)
				client.CloseWrite()
			}
			err := <-done
			if reasonOf(err) != RemoteClose || !strings.Contains(err.Error(), fmt.Sprintf("%d bytes", sent)) {
				t.Errorf("%d bytes and the end: %v, want %s", sent, err, RemoteClose)
			}
			r.wantCounts(t, "listener.a.downstream_listener_filter_remote_close")
		}
	}
}

func TestAClientThatResetsIsKnownAtOnce(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
	client, server := pair(t)
	_, done := r.run(t.Context(), server)
	r.waits(t, 1)
	client.SetLinger(0)
	client.Close()
	if err := <-done; reasonOf(err) != Broken || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset: %v, want %s", err, Broken)
	}
	r.wantCounts(t, "listener.a.downstream_listener_filter_error")
}

func TestTheLastBytesTogetherWithTheEndAreEnough(t *testing.T) {
	hello := captured(t)
	for range 50 {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter)
		client, server := pair(t)
		send(t, client, hello[:9])
		info, done := r.run(t.Context(), server)
		send(t, client, hello[9:])
		client.CloseWrite()
		wantTLS(t, info, <-done)
	}
}

func TestTimeoutClosesOrGoesOnAsPlaintext(t *testing.T) {
	for _, sent := range []int{0, 100} {
		for _, goOn := range []bool{false, true} {
			r := newRig(t, config.Listener{FiltersTimeout: time.Millisecond, ContinueOnTimeout: goOn}, tlsFilter, httpFilter)
			client, server := pair(t)
			send(t, client, captured(t)[:sent])
			info, done := r.run(t.Context(), server)
			err := <-done
			if goOn && err != nil || !goOn && reasonOf(err) != Timeout || info.TransportProtocol != "raw_buffer" {
				t.Errorf("%d bytes, continue %v: %v, transport %q", sent, goOn, err, info.TransportProtocol)
			}
			r.wantCounts(t, "listener.a.downstream_pre_cx_timeout")
			if goOn { // the deadline is off again
				send(t, client, []byte("x"))
				if _, err := io.ReadFull(server, make([]byte, sent+1)); err != nil {
					t.Errorf("reading after the filters: %v", err)
				}
			}
		}
	}
}

// With the timeout of 0 that Istio sets, silence is waited for, and only
// silence.
func TestWithoutATimeoutOnlySilenceIsForEver(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	r := newRig(t, config.Listener{ContinueOnTimeout: true}, tlsFilter)
	r.partial = time.Millisecond
	_, silent := pair(t)
	_, silentDone := r.run(ctx, silent)
	r.waits(t, 1)

	client, server := pair(t)
	send(t, client, captured(t)[:100])
	info, done := r.run(ctx, server)
	if err := <-done; err != nil || info.TransportProtocol != "raw_buffer" {
		t.Errorf("a partial hello: %v, transport %q, want to go on", err, info.TransportProtocol)
	}
	r.goOn = false
	_, done = r.run(ctx, server)
	if err := <-done; reasonOf(err) != Timeout {
		t.Errorf("a partial hello: %v, want %s", err, Timeout)
	}
	select {
	case err := <-silentDone:
		t.Errorf("the silent connection ended: %v", err)
	default:
	}
	cancel(stopped)
	if err := <-silentDone; !errors.Is(err, stopped) {
		t.Errorf("the end of the context: %v, want its cause", err)
	}
}

func TestTheOldestOfTooManyIsShed(t *testing.T) {
	r := newRig(t, config.Listener{}, tlsFilter)
	r.waiting.limit = 2
	ctx, cancel := context.WithCancel(t.Context())
	var all []chan error
	for i := range 3 {
		_, server := pair(t)
		_, done := r.run(ctx, server)
		all = append(all, done)
		if i < 2 {
			r.waits(t, i+1)
		}
	}
	if err := <-all[0]; reasonOf(err) != Shed || !errors.Is(err, ErrShed) {
		t.Errorf("the oldest: %v, want %v", err, ErrShed)
	}
	r.waits(t, 2)
	r.wantCounts(t, "listener.a.downstream_pre_cx_shed")
	cancel()
	for _, done := range all[1:] {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the others: %v, want that they go on until the end", err)
		}
	}
	r.waits(t, 0)
}

func TestAWaitingConnectionHoldsNoBuffer(t *testing.T) {
	const n = 100
	r := newRig(t, config.Listener{}, tlsFilter)
	ctx, cancel := context.WithCancel(t.Context())
	hello := captured(t)
	var servers []net.Conn
	for range n {
		client, server := pair(t)
		send(t, client, hello[:1000])
		servers = append(servers, server)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the pool is emptied in two
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var all []chan error
	for _, server := range servers {
		_, done := r.run(ctx, server)
		all = append(all, done)
	}
	r.waits(t, n)
	if each := (int64(heap()) - int64(before)) / n; each > 4<<10 {
		t.Errorf("a waiting connection holds %d bytes of heap", each)
	}
	cancel()
	for _, done := range all {
		<-done
	}
}

func TestFiltersAreDisabledByPredicate(t *testing.T) {
	ports := func(from, to uint16) *config.ListenerFilterPredicate {
		return &config.ListenerFilterPredicate{IsPortRange: true, PortFrom: int(from), To: int(to)}
	}
	any := &config.ListenerFilterPredicate{Any: true}
	info := &flow.Info{Local: flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.1:3306")}}
	for name, c := range map[string]struct {
		p    *config.ListenerFilterPredicate
		want bool
	}{
		"nil": {nil, false}, "any": {any, true}, "any false": {&config.ListenerFilterPredicate{}, false},
		"in range": {ports(3306, 3307), true}, "at its end": {ports(3300, 3306), false},
		"not":       {&config.ListenerFilterPredicate{Not: any}, false},
		"or":        {&config.ListenerFilterPredicate{Or: []*config.ListenerFilterPredicate{ports(1, 2), any}}, true},
		"or of no":  {&config.ListenerFilterPredicate{Or: []*config.ListenerFilterPredicate{ports(1, 2)}}, false},
		"and":       {&config.ListenerFilterPredicate{And: []*config.ListenerFilterPredicate{ports(3306, 3307), any}}, true},
		"and of no": {&config.ListenerFilterPredicate{And: []*config.ListenerFilterPredicate{any, ports(1, 2)}}, false},
	} {
		if got := matches(c.p, info); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if matches(ports(0, 65535), &flow.Info{Local: flow.Addr{Path: "/s"}}) {
		t.Error("a unix socket is in a range of ports")
	}
	// A disabled inspector does not wait.
	r := newRig(t, config.Listener{FiltersTimeout: forever}, &config.ListenerFilter{Name: "tls", Disabled: any, TLSInspector: &config.TLSInspector{}})
	_, server := pair(t)
	if err := r.Run(t.Context(), server, newInfo(server)); err != nil {
		t.Error(err)
	}
}

// answers is a kernel of fixed answers.
