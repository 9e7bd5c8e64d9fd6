package filter

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/config"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

func authority(t *testing.T) *ca.CA {
	t.Helper()
	c, err := ca.New("root") // two of them have the same name
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keyPairOf(t *testing.T, c *ca.CA, id string) []certs.Ref {
	t.Helper()
	issued, err := c.Issue(ca.Leaf{ID: id, CN: "x", DNS: []string{"x.test"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return []certs.Ref{{Inline: &certs.Secret{KeyPair: pair, Version: id}}}
}

func trusting(t *testing.T, c *ca.CA) *certs.Validation {
	t.Helper()
	roots, err := certs.ParseRoots(c.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return &certs.Validation{Roots: roots}
}

// overTLS serves one connection of ch over TLS and hands out the client's
// side.
func overTLS(t *testing.T, ch *Chain, server *tlsmux.ServerConfig, client *tlsmux.ClientConfig) (relay.Conn, chan error) {
	t.Helper()
	near, far := pair(t)
	store := certs.NewStore(certs.Feeds{})
	result := make(chan error, 1)
	go func() {
		defer far.Close()
		c, err := tlsmux.NewServer(server, store).Handshake(t.Context(), far)
		if err == nil {
			info := infoOf(far)
			info.Downstream = c.State()
			err = serveToEnd(ch, t.Context(), &Conn{Conn: c, Info: info})
		}
		result <- err
	}()
	c, err := tlsmux.NewClient(client, store).Handshake(t.Context(), near, tlsmux.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c, result
}

func ended(t *testing.T, result chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the connection does not end")
		return nil
	}
}

func TestOnlyAVerifiedIdentityIsAuthorized(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	byName := policyOf("web", &config.Principal{Authenticated: &config.Authenticated{Name: exact(webID)}})
	anyone := policyOf("any", &config.Principal{Authenticated: &config.Authenticated{}})
	for name, c := range map[string]struct {
		client  []certs.Ref
		policy  config.RBACPolicy
		allowed bool
	}{
		"the identity itself":                {client: keyPairOf(t, ours, webID), policy: byName, allowed: true},
		"another identity of our authority":  {client: keyPairOf(t, ours, evilID), policy: byName},
		"the identity by another authority":  {client: keyPairOf(t, theirs, webID), policy: byName},
		"no certificate":                     {policy: byName},
		"anyone of our authority":            {client: keyPairOf(t, ours, evilID), policy: anyone, allowed: true},
		"anyone by another authority":        {client: keyPairOf(t, theirs, evilID), policy: anyone},
		"anyone at all, without certificate": {policy: anyone},
	} {
		t.Run(name, func(t *testing.T) {
			validation := trusting(t, ours)
			validation.AcceptUntrusted = true // TLS lets them all in: rbac must not
			server := &tlsmux.ServerConfig{CommonConfig: tlsmux.CommonConfig{Certificates: keyPairOf(t, ours, "spiffe://prod/ns/a/sa/server"), Validation: validation}}
			client := &tlsmux.ClientConfig{CommonConfig: tlsmux.CommonConfig{Certificates: c.client, Validation: trusting(t, ours)}}
			ch := mustChain(t, Deps{}, &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{Rules: rules(config.Allow, c.policy)}}, echoFilter())
			conn, result := overTLS(t, ch, server, client)
			_, _ = io.WriteString(conn, "hi") // a denied client may be gone already
			_ = conn.CloseWrite()
			got, _ := io.ReadAll(conn)
			if err := ended(t, result); (err == nil) != c.allowed || (string(got) == "hi") != c.allowed {
				t.Errorf("received %q, %v; want allowed: %v", got, err, c.allowed)
			}
		})
	}
}

func TestExchangeOverTLSWithAnEndToItsDirection(t *testing.T) {
	ours := authority(t)
	server := &tlsmux.ServerConfig{CommonConfig: tlsmux.CommonConfig{Certificates: keyPairOf(t, ours, "spiffe://prod/ns/a/sa/server"), ALPN: []string{exchangeALPN}}}
	client := &tlsmux.ClientConfig{CommonConfig: tlsmux.CommonConfig{Validation: trusting(t, ours), ALPN: []string{exchangeALPN}}}
	address := backend(t, func(b *net.TCPConn) {
		got, _ := io.ReadAll(b) // up to the client's close_notify
		_, _ = b.Write(got)
	})
	fake := &fakeUpstream{dial: func(context.Context, int) (*leg, error) { return dialLeg(t, address) }}
	ch := mustChain(t, Deps{Node: node(t)}, exchangeFilter(), tcp("app", nil))
	ch.terminal.(*tcpProxy).clusters = fake.get
	conn, result := overTLS(t, ch, server, client)
	takeFrame(t, conn)
	if _, err := conn.Write(append(peerFrame(t), "hello"...)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("received %q, %v", got, err)
	}
	if err := ended(t, result); err != nil {
		t.Error(err)
	}
}
