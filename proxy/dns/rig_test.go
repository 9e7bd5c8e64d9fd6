package dns

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tableOf makes a table by way of its bytes.
func tableOf(t testing.TB, entries ...Entry) *Table {
	t.Helper()
	table, err := ParseTable(&anypb.Any{TypeUrl: TypeURL, Value: encode(entries...)})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func encode(entries ...Entry) []byte {
	var out []byte
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	for _, e := range entries {
		var info []byte
		for _, a := range e.Addresses {
			info = field(info, 1, []byte(a.String()))
		}
		info = field(info, 2, []byte(e.Registry))
		info = field(info, 3, []byte(e.Shortname))
		info = field(info, 4, []byte(e.Namespace))
		for _, h := range e.AltHosts {
			info = field(info, 5, []byte(h))
		}
		out = field(out, 1, field(field(nil, 1, []byte(e.Host)), 2, info))
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// service is a Kubernetes service of namespace shop.
func service(name string, ips ...string) Entry {
	return Entry{Host: name + ".shop.svc.cluster.local", Addresses: addrs(ips...), Registry: kubernetes, Shortname: name, Namespace: "shop"}
}

// external is a host of a ServiceEntry.
func external(host string, ips ...string) Entry {
	return Entry{Host: host, Addresses: addrs(ips...), Registry: "External"}
}

// resolver is a server of resolv.conf.
type resolver struct {
	address    netip.AddrPort
	asked      atomic.Int64 // both protocols
	askedTCP   atomic.Int64
	udp, tcp   *wire.Server
	nothingUDP atomic.Bool // it says nothing
}

// resolve starts a resolver on address with a port of its own, or port.
func resolve(t *testing.T, address string, port uint16, answer func(w wire.ResponseWriter, q *wire.Msg)) *resolver {
	t.Helper()
	l, u := bothPorts(t, netip.AddrPortFrom(netip.MustParseAddr(address), port))
	r := &resolver{address: localOf(l.Addr())}
	handle := wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		r.asked.Add(1)
		if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
			r.askedTCP.Add(1)
		} else if r.nothingUDP.Load() {
			return
		}
		answer(w, q)
	})
	r.udp, r.tcp = &wire.Server{PacketConn: u, Handler: handle}, &wire.Server{Listener: l, Handler: handle}
	for _, s := range []*wire.Server{r.udp, r.tcp} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			s.Shutdown()
			<-done
		})
	}
	return r
}

// bothPorts opens an address for both protocols. Of any one port, the other
// protocol may have somebody else.
func bothPorts(t *testing.T, a netip.AddrPort) (*net.TCPListener, *net.UDPConn) {
	t.Helper()
	var failed error
	for range 20 {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(localOf(l.Addr())))
		if err == nil {
			return l, u
		}
		l.Close()
		failed = err
	}
	t.Fatal(failed)
	return nil, nil
}

// says is an answer of one address.
func says(ip string) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, q *wire.Msg) {
		m := (&wire.Msg{}).SetReply(q)
		m.RecursionAvailable = true
		m.Answer = []wire.RR{&wire.A{Hdr: wire.RR_Header{Name: q.Question[0].Name, Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 77}, A: net.ParseIP(ip)}}
		w.WriteMsg(m)
	}
}

// code is an answer without records.
func code(rcode int, authority ...wire.RR) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, q *wire.Msg) {
		m := (&wire.Msg{}).SetRcode(q, rcode)
		m.Ns = authority
		w.WriteMsg(m)
	}
}

// rig is a Server that runs.
type rig struct {
	*Server
	t       *testing.T
	conf    string
	address string
}

// confOf writes a resolv.conf of servers, all of one port.
func confOf(t *testing.T, search string, servers ...netip.AddrPort) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeConf(t, path, search, servers...)
	return path
}

func writeConf(t *testing.T, path, search string, servers ...netip.AddrPort) {
	t.Helper()
	text := "search " + search + "\n"
	for _, s := range servers {
		text += "nameserver " + s.Addr().String() + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start runs a server with servers in its resolv.conf.
func start(t *testing.T, o Options, servers ...netip.AddrPort) *rig {
	t.Helper()
	return startWith(t, o, func(*Server) {}, servers...)
}

// startWith changes the server before it runs.
func startWith(t *testing.T, o Options, change func(*Server), servers ...netip.AddrPort) *rig {
	t.Helper()
	r := &rig{t: t, conf: confOf(t, "shop.svc.cluster.local svc.cluster.local", servers...)}
	o.ResolvConf, o.Namespace, o.Domain = r.conf, "shop", "shop.svc.cluster.local"
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	r.Server = newServer(o)
	if len(servers) > 0 {
		r.Server.conf.port = servers[0].Port()
	}
	if err := r.Server.conf.open(); err != nil {
		t.Fatal(err)
	}
	l, u := bothPorts(t, netip.MustParseAddrPort("127.0.0.1:0"))
	r.Server.tcp, r.Server.udp, r.own[localOf(l.Addr())] = []*net.TCPListener{l}, []*net.UDPConn{u}, true
	r.address = r.Addresses()[0].String()
	change(r.Server)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// ask sends m.
func (r *rig) ask(network string, m *wire.Msg) *wire.Msg {
	r.t.Helper()
	c := &wire.Client{Net: network, Timeout: 10 * time.Second}
	got, _, err := c.Exchange(m, r.address)
	if err != nil {
		r.t.Fatalf("%s %v: %v", network, m.Question, err)
	}
	return got
}

// query is a question.
func query(name string, qtype uint16) *wire.Msg { return (&wire.Msg{}).SetQuestion(name, qtype) }

// texts are records in one line each, without the TTL.
func texts(all []wire.RR) []string {
	out := []string{}
	for _, rr := range all {
		h := rr.Header()
		value := ""
		switch rr := rr.(type) {
		case *wire.A:
			value = rr.A.String()
		case *wire.AAAA:
			value = rr.AAAA.String()
		case *wire.CNAME:
			value = rr.Target
		}
		out = append(out, h.Name+" "+wire.TypeToString[h.Rrtype]+" "+value)
	}
	return out
}

// lines are a log.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
