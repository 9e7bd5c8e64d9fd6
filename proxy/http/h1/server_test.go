package h1

import "testing"

func TestServerKeepsTheConnectionForFurtherRequests(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{})
	for range 3 {
		v.write("GET /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n")
		v.read(okText)
	}
	v.nc.CloseWrite()
	e := v.ended()
	if e.By.String() != "fin" || e.Requests != 3 || e.Err != nil {
		t.Errorf("ended %+v", e)
	}
	for _, got := range a.texts() {
		if want := "GET a /x x-y=z end"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestServerTakesChunkedBodies(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{EnableTrailers: true})
	v.write("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n")
	v.read(okText)
	if got, want := a.texts()[0], "POST a /x transfer-encoding=chunked body=abc0123456789 trailer t=v end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
