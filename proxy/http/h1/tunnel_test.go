package h1

import (
	"testing"

	"outrider/proxy/http/codec"
)

func TestServerTunnelsConnect(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write("CONNECT b:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nearly")
	r := a.next(t)
	r.await(t, "the early bytes", func() bool { return r.body.String() == "early" })
	r.s.SendHead(respond(200, "content-length", "3"), false)
	r.s.SendData([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	v.read("HTTP/1.1 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n")
	v.write("0\r\n\r\n")
	v.nc.CloseWrite()
	r.awaitEnd(t)
	if got, want := r.text(), "CONNECT b:80  body=early0\r\n\r\n end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.s.SendData([]byte("after the client's end"), true)
	v.read("after the client's end")
	if got := v.rest(); got != "" {
		t.Errorf("then came %q", got)
	}
	if e := v.ended(); e.Requests != 1 || e.Err != nil {
		t.Errorf("ended %+v", e)
	}
}

func TestServerHalfClosesTunnel(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write("CONNECT b:80 HTTP/1.1\r\nHost: a\r\n\r\n")
	r := a.next(t)
	r.s.SendHead(respond(200), false)
	r.s.SendData([]byte("x"), true)
	v.read("HTTP/1.1 200 OK\r\n\r\nx")
	if got := v.rest(); got != "" { // our end is here already
		t.Errorf("then came %q", got)
	}
	v.write("more")
	r.await(t, "more", func() bool { return r.body.String() == "more" })
	v.nc.CloseWrite()
	r.awaitEnd(t)
	v.ended()
}

func TestConnectionEndsAfterRefusedConnect(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write("CONNECT b:80 HTTP/1.1\r\nHost: a\r\n\r\n" + get + "\r\n")
	r := a.next(t)
	r.s.SendHead(respond(403), true)
	r.s.Reset(codec.NoError)
	v.read("HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
	if got := v.rest(); got != "" || len(a.requests) != 1 {
		t.Errorf("then came %q, %d requests", got, len(a.requests))
	}
}

const upgrade = get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

func TestServerUpgrades(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(upgrade + "early")
	r := a.next(t)
	r.s.SendHead(respond(101, "connection", "upgrade", "upgrade", "websocket"), false)
	v.read("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	r.await(t, "the early bytes", func() bool { return r.body.String() == "early" })
	r.s.SendData([]byte("hello"), false)
	v.read("hello")
	v.write(" more")
	v.nc.CloseWrite()
	r.awaitEnd(t)
	if got, want := r.text(), "GET a /x connection=Upgrade upgrade=websocket body=early more end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.s.SendData([]byte("bye"), true)
	v.read("bye")
	v.rest()
	v.ended()
}

func TestRefusedUpgradeIsAnOrdinaryRequest(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(upgrade + get + "\r\n")
	r := a.next(t)
	r.await(t, "the head", func() bool { return r.head != nil })
	if r.done {
		t.Error("the request has ended before the response")
	}
	r.s.SendHead(respond(200), true)
	r.awaitEnd(t)
	if got, want := v.rest(), "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"; got != want {
		t.Errorf("answered %q, want %q", got, want)
	}
	if r.reset != nil || len(a.requests) != 1 {
		t.Errorf("%s, %d requests", r.text(), len(a.requests))
	}
}

func TestClientUpgrades(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("GET", "/x", "connection", "upgrade", "upgrade", "websocket"), false)
	if gone := r.s.SendData([]byte("early"), false); gone != 0 {
		t.Errorf("%d bytes are gone that may not be sent yet", gone)
	}
	v.read("GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	v.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
	v.read("early")
	r.await(t, "the credit", func() bool { return r.gone == 5 })
	r.await(t, "hello", func() bool { return r.body.String() == "hello" })
	r.s.SendData([]byte(" more"), true)
	v.read(" more")
	v.write("bye")
	v.nc.Close()
	r.awaitEnd(t)
	if got, want := r.text(), "101 connection=upgrade upgrade=websocket body=hellobye end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if e := v.ended(); e.Err != nil {
		t.Errorf("ended %+v", e)
	}
}

// What was meant for the other protocol is not taken for a request.
func TestClientSendsNothingAfterARefusedUpgrade(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("GET", "/x", "connection", "upgrade", "upgrade", "websocket"), false)
	r.s.SendData([]byte("DELETE / HTTP/1.1\r\n\r\n"), true)
	v.read("GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	v.write(okText)
	r.awaitEnd(t)
	r.await(t, "the credit", func() bool { return r.gone == 21 })
	v.awaitRoom()
	r = v.open()
	r.s.SendHead(ask("GET", "/y"), true)
	v.read("GET /y HTTP/1.1\r\n")
}

func TestClientTunnelsConnect(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("CONNECT", ""), false)
	r.s.SendData([]byte("raw"), false)
	v.read("CONNECT a HTTP/1.1\r\nhost: a\r\n\r\nraw")
	v.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
	r.await(t, "bytes", func() bool { return r.body.String() == "HTTP/1.1 200 OK\r\n\r\n" })
	if v.cl.Room() != 0 {
		t.Error("there is room on a tunnel")
	}
	r.s.SendData([]byte("x"), true)
	v.read("x")
	v.nc.CloseWrite()
	r.awaitEnd(t)
	v.ended()
}

func TestClientDoesNotReuseARefusedTunnel(t *testing.T) {
	for _, ended := range []bool{false, true} {
		v := call(t, Options{})
		r := v.open()
		r.s.SendHead(ask("CONNECT", ""), false)
		if ended {
			r.s.SendData(nil, true)
		}
		v.read("CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n")
		v.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nabc")
		r.awaitEnd(t)
		if e := v.ended(); e.By != codec.ByUs {
			t.Errorf("ended %+v", e)
		}
		if v.own.room != 0 || !v.cl.Draining() {
			t.Error("there is room")
		}
	}
}
