package istioca

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestKeyFileChangeCountsAtOnce(t *testing.T) {
	first, second := testKey(t), testKey(t)
	path, keys := fileWith(t, keySet(t, jose.JSONWebKey{Key: &first.PublicKey, KeyID: "1"}))
	try := func(kid string, key any) error {
		_, _, err := believing(keys).authenticate(t.Context(), signed(t, jose.ES256, key, kid, projected(nil)))
		return err
	}
	if err := try("1", first); err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(`{"keys":[`) // half written
	if err := try("1", first); err != nil {
		t.Errorf("with half a file, the keys before must count: %v", err)
	}
	put(string(keySet(t, jose.JSONWebKey{Key: &second.PublicKey, KeyID: "2"})))
	if err := try("2", second); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := try("1", first); err == nil {
		t.Error("the key that was taken out is still believed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := try("2", second); err != nil {
		t.Errorf("without the file, the keys before must count: %v", err)
	}
}

func TestKeySetIsRefused(t *testing.T) {
	private := keySet(t, jose.JSONWebKey{Key: testKey(t), KeyID: "1"})
	small := keySet(t, jose.JSONWebKey{Key: &rsaKey(t, 1024).PublicKey, KeyID: "1"})
	one := strings.TrimSuffix(strings.TrimPrefix(string(keySet(t, jose.JSONWebKey{Key: &testKey(t).PublicKey})), `{"keys":[`), `]}`)
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {``, "unexpected end"},
		"no key":        {`{"keys":[]}`, "no key for signatures"},
		"not a set":     {`[]`, "cannot unmarshal"},
		"a secret":      {`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, "is not a public key"},
		"a private key": {string(private), "is not a public key"},
		"a weak key":    {string(small), "an RSA key of 1024 bits is refused"},
		"too many":      {`{"keys":[` + strings.Repeat(one+",", maxKeys) + one + `]}`, "it has 101 keys"},
		"too long":      {strings.Repeat(" ", maxKeySetBytes+1), "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "jwks.json")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := NewKeyFile(path, slog.New(slog.DiscardHandler))
			wantText(t, err, c.want)
		})
	}
}

// keyServer answers requests for a key set without a network.
type keyServer struct {
	requests []*http.Request
	text     []byte
	status   int
	err      error
}

func (k *keyServer) RoundTrip(r *http.Request) (*http.Response, error) {
	k.requests = append(k.requests, r)
	if k.err != nil {
		return nil, k.err
	}
	return &http.Response{
		StatusCode: k.status, Status: http.StatusText(k.status), Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(string(k.text))), Request: r,
	}, nil
}

func urlKeys(t *testing.T, server *keyServer, tokenFile string) *KeyURL {
	t.Helper()
	keys, err := NewKeyURL(KeyURLConfig{
		URL: "https://cluster/openid/v1/jwks", Client: &http.Client{Transport: server}, TokenFile: tokenFile,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestKeyURLFollowsARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := testKey(t), testKey(t)
		server := &keyServer{status: 200, text: keySet(t, jose.JSONWebKey{Key: &first.PublicKey, KeyID: "1"})}
		keys := urlKeys(t, server, "")
		find := func(kid string, found, requests int) {
			t.Helper()
			got, err := keys.find(t.Context(), kid)
			if err != nil || len(got) != found || len(server.requests) != requests {
				t.Errorf("key %s: got %d keys, %v, after %d requests, want %d after %d", kid, len(got), err, len(server.requests), found, requests)
			}
		}
		find("1", 1, 1)
		find("1", 1, 1)
		server.text = keySet(t, jose.JSONWebKey{Key: &second.PublicKey, KeyID: "2"})
		for range 1000 { // made-up key IDs are one request in ten seconds
			find("2", 0, 1)
		}
		time.Sleep(minFetchGap)
		find("2", 1, 2)
		find("1", 0, 2)
		time.Sleep(refreshEvery)
		find("2", 1, 3)
	})
}

func TestKeyURLOutlivesAnOutageOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t)
		server := &keyServer{err: errors.New("no route")}
		keys := urlKeys(t, server, "")
		_, err := keys.find(t.Context(), "1")
		wantText(t, err, "no route")
		server.err, server.status = nil, 503
		time.Sleep(minFetchGap)
		_, err = keys.find(t.Context(), "1")
		wantText(t, err, "Service Unavailable")
		server.status, server.text = 200, keySet(t, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "1"})
		time.Sleep(2 * minFetchGap)
		if got, err := keys.find(t.Context(), "1"); err != nil || len(got) != 1 {
			t.Fatalf("after the outage: got %d keys, %v", len(got), err)
		}
		before := len(server.requests)
		server.text = []byte("<html>")
		for end := time.Now().Add(staleAfter); !time.Now().After(end); time.Sleep(time.Minute) {
			if got, err := keys.find(t.Context(), "1"); err != nil || len(got) != 1 {
				t.Fatalf("in the outage: got %d keys, %v", len(got), err)
			}
		}
		if n := len(server.requests) - before; n > 300 {
			t.Errorf("%d requests in a day of outage, want one in five minutes", n)
		}
		_, err = keys.find(t.Context(), "1")
		wantText(t, err, "there is none from the last 24h0m0s")
	})
}

// slowServer answers when it is told to.
type slowServer struct {
	keyServer
	slow   bool
	answer chan struct{}
}

func (s *slowServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.slow {
		<-s.answer
	}
	return s.keyServer.RoundTrip(r)
}

// A fetch that hangs, perhaps for a made-up key ID, holds up nobody whose key
// is there.
func TestSlowKeyURLHoldsUpNobodyWithAKnownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &slowServer{answer: make(chan struct{})}
		server.status, server.text = 200, keySet(t, jose.JSONWebKey{Key: &testKey(t).PublicKey, KeyID: "1"})
		keys, err := NewKeyURL(KeyURLConfig{URL: "https://cluster/jwks", Client: &http.Client{Transport: server}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.find(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshEvery)
		server.slow = true
		var unknown sync.WaitGroup
		for range 3 {
			unknown.Go(func() {
				if got, err := keys.find(t.Context(), "2"); err != nil || len(got) != 0 {
					t.Errorf("the unknown key: got %d, %v", len(got), err)
				}
			})
		}
		synctest.Wait()
		before := time.Now()
		if got, err := keys.find(t.Context(), "1"); err != nil || len(got) != 1 || time.Since(before) != 0 {
			t.Errorf("the known key: got %d, %v after %s", len(got), err, time.Since(before))
		}
		close(server.answer)
		unknown.Wait()
		if len(server.requests) != 2 {
			t.Errorf("got %d requests, want 2: one for all that wait", len(server.requests))
		}
	})
}

func TestKeyURLSendsItsToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := &keyServer{status: 200, text: keySet(t, jose.JSONWebKey{Key: &testKey(t).PublicKey})}
	if _, err := urlKeys(t, server, file).find(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	if got := server.requests[0].Header.Get("Authorization"); got != "Bearer abc" {
		t.Errorf("authorization: got %q", got)
	}
}

func TestKeyURLInTheClearIsRefused(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://cluster/jwks": true, "http://127.0.0.1:8080/jwks": true, "http://[::1]/jwks": true,
		"http://cluster/jwks": false, "http://10.0.0.1/jwks": false, "file:///jwks": false, "https://%zz": false,
	} {
		_, err := NewKeyURL(KeyURLConfig{URL: url, Client: http.DefaultClient}, slog.New(slog.DiscardHandler))
		if (err == nil) != ok {
			t.Errorf("%s: got %v, want accepted %t", url, err, ok)
		}
	}
}
