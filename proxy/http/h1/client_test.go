package h1

import "testing"

func TestClientMakesOneRequestAfterAnother(t *testing.T) {
	v := call(t, Options{})
	for range 3 {
		v.awaitRoom()
		r := v.open()
		r.s.SendHead(ask("POST", "/x", "a", "b"), false)
		r.s.SendData([]byte("abc"), false)
		r.s.SendData([]byte("d"), true)
		v.read("POST /x HTTP/1.1\r\nhost: a\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
		v.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		r.awaitEnd(t)
		if got, want := r.text(), "200 content-length=5 body=hello end"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	v.nc.Close()
	if e := v.ended(); e.By.String() != "fin" || e.Requests != 3 || e.Err != nil {
		t.Errorf("ended %+v", e)
	}
}
