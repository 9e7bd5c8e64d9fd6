package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// testBed is a bed whose clients reach addr.
func testBed(t *testing.T, addr string, s shape) *bed {
	t.Helper()
	ids, err := newIdentities(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{ids: ids, dir: t.TempDir(), warmUp: 20 * time.Millisecond, time: 100 * time.Millisecond, verified: map[string]bool{}, port: firstPort}
	return &bed{h: h, peer: &peer{name: "test"}, scene: scene{shape: s}, addr: addr}
}

// A server that stalls for a while delays all the messages that come due
// meanwhile: a measure that waits for one answer before it sends the next would
// see one slow message, and miss the others.
func TestLatencyCountsFromWhenMessagesWereDue(t *testing.T) {
	const stall = 150 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, echoBytes)
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return
		}
		for i := 0; ; i++ {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if i == 30 {
				<-time.After(stall)
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	v, err := paced(1000, 1)(t.Context(), testBed(t, ln.Addr().String(), plain))
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	// 200 messages, 1 ms apart, of which 150 came due while it stalled.
	if v["p50_us"] < 20e3 || v["p99_us"] < 120e3 {
		t.Errorf("the server stalled for %s, and the times are %v", stall, v)
	}
}

func TestAPeerThatServesStrangersIsNotMeasured(t *testing.T) {
	for _, c := range []struct {
		name string
		auth tls.ClientAuthType
		want string
	}{
		{"mutual", tls.RequireAndVerifyClientCert, ""},
		{"one-sided", tls.NoClientCert, "no certificate"},
		{"unverified", tls.RequireAnyClientCert, "another authority's certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := testBed(t, "", terminate)
			config := b.h.ids.serverTLS(false)
			config.ClientAuth = c.auth
			o, err := newOrigin(config)
			if err != nil {
				t.Fatal(err)
			}
			defer o.close()
			err = b.refusesStrangers(t.Context(), o.addr())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestAnotherCipherIsRefused(t *testing.T) {
	good := tls.ConnectionState{Version: tls.VersionTLS13, CurveID: tls.X25519, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	if err := sameTLS(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*tls.ConnectionState){
		"TLS 1.2":  func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 },
		"P-256":    func(s *tls.ConnectionState) { s.CurveID = tls.CurveP256 },
		"AES-256":  func(s *tls.ConnectionState) { s.CipherSuite = tls.TLS_AES_256_GCM_SHA384 },
		"ChaCha20": func(s *tls.ConnectionState) { s.CipherSuite = tls.TLS_CHACHA20_POLY1305_SHA256 },
	} {
		s := good
		change(&s)
		if sameTLS(s) == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestEveryLoadMeasuresAServer(t *testing.T) {
	for _, w := range allRows() {
		if w.scene.shape != terminate || w.scene.http != "" || strings.HasPrefix(w.id, "idle/") || w.scene.rest {
			continue
		}
		t.Run(w.id, func(t *testing.T) {
			b := testBed(t, "", terminate)
			o, err := newOrigin(b.h.ids.serverTLS(true))
			if err != nil {
				t.Fatal(err)
			}
			defer o.close()
			b.addr = o.addr()
			v, err := w.measure(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range w.metrics {
				if _, ok := v[m.key]; !ok {
					t.Errorf("there is no %s: %v", m.key, v)
				}
			}
			if share := v["resumed"]; strings.HasSuffix(w.id, "/resumed") != (share > 0) && strings.HasPrefix(w.id, "new/") {
				t.Errorf("%.0f%% resumed", share)
			}
		})
	}
}

func TestRequestsAreAnswered(t *testing.T) {
	for _, http := range []string{"h1", "h2"} {
		b := testBed(t, "", plain)
		b.scene.http = http
		backend, err := newHTTPBackend(http == "h2")
		if err != nil {
			t.Fatal(err)
		}
		b.addr = backend.addr()
		v, err := requests(2, 4)(context.Background(), b)
		backend.close()
		if err != nil || v["per_s"] == 0 {
			t.Errorf("%s: %v, %v", http, v, err)
		}
	}
}
