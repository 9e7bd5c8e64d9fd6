//go:build envoy

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
)

// secretProtocols are the two ways in which a proxy asks for secrets.
var secretProtocols = []string{"GRPC", "DELTA_GRPC"}

// over is a bootstrap whose secrets come by another protocol.
func over(protocol, bootstrap string) string {
	return strings.ReplaceAll(bootstrap, "api_type: GRPC", "api_type: "+protocol)
}

// serial is the serial number of the leaf that a proxy has in use, by /certs.
func (r *running) serial() string {
	r.t.Helper()
	_, body := r.get("/certs")
	var out struct {
		Certificates []struct {
			CertChain []struct {
				SerialNumber string `json:"serial_number"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		r.t.Fatalf("%s /certs: %v\n%s", r.kind, err, body)
	}
	for _, c := range out.Certificates {
		if len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber
		}
	}
	return ""
}

// uses waits until a proxy has that certificate in use.
func (r *running) uses(c *x509.Certificate) {
	r.t.Helper()
	want := c.SerialNumber.Text(16) // Envoy writes whole bytes
	r.wait("certificate "+want, func() bool { return strings.TrimLeft(r.serial(), "0") == want })
}

// A proxy that starts before its agent knows anything gets its secrets from us,
// then new certificates and another root, while it is called all the time.
func TestRotationsOverOurSDSLoseNothing(t *testing.T) {
	for _, protocol := range secretProtocols {
		for _, pair := range [][2]kind{{envoy, envoy}, {envoy, outrider}, {outrider, envoy}} {
			t.Run(strings.ToLower(fmt.Sprintf("%s %s to %s", protocol, pair[0], pair[1])), func(t *testing.T) {
				rotate(t, protocol, pair[0], pair[1])
			})
		}
	}
}

func rotate(t *testing.T, protocol string, client, server kind) {
	sdir, cdir := t.TempDir(), t.TempDir()
	agents := []*workload{beside(t, cdir, webID), beside(t, sdir, ucID)}
	oldRoot, newRoot := newWorld(t).root, newWorld(t).root
	s := start(t, server, sdir, over(protocol, permissive(echo(t))))
	s.wait("a question for both secrets", func() bool { return len(agents[1].server.Clients()) == 2 })
	for _, a := range agents {
		a.trust(oldRoot)
		a.serve(oldRoot)
	}
	s.ready()
	c := start(t, client, cdir, over(protocol, outbound(s.addr("in"), "[istio]", ucID))).ready()
	proxies := []*running{c, s}
	l, stop := startLoad(t, c.addr("out"), 4)
	everywhere := func(step func(a *workload)) {
		for _, a := range agents {
			step(a)
			a.settle("ROOTCA")
			a.settle("default")
		}
		l.round()
	}
	renew := func(by *ca.CA) {
		everywhere(func(a *workload) { a.serve(by) })
	}
	for range 4 {
		renew(oldRoot)
	}
	everywhere(func(a *workload) { a.trust(oldRoot, newRoot) })
	renew(newRoot)
	everywhere(func(a *workload) { a.trust(newRoot) })
	for range 3 {
		renew(newRoot)
	}
	stop()
	for i, a := range agents {
		proxies[i].uses(a.keeper.Pair().TLS.Leaf)
		a.unrefused()
	}
	t.Logf("%d calls through 8 rotations of certificates on either side, and 2 of roots", l.calls())
	if n := l.calls(); n < 40 {
		t.Errorf("only %d calls: the test says little", n)
	}
}

// The roots of two trust domains are Envoy's SPIFFE validator: each member is
// verified with its own domain's roots, and with no other.
func TestFederatedRootsVerifyEachDomainsMembersAlone(t *testing.T) {
	const partnerID = "spiffe://partner.example/ns/dev/sa/web"
	for _, server := range kinds {
		t.Run(strings.ToLower(string(server)), func(t *testing.T) {
			ours, theirs, later := newWorld(t).root, newWorld(t).root, newWorld(t).root
			local, partner := spiffeid.RequireTrustDomainFromString("cluster.local"), spiffeid.RequireTrustDomainFromString("partner.example")
			sdir, cdir := t.TempDir(), t.TempDir()
			uc, web := beside(t, sdir, ucID), beside(t, cdir, partnerID)
			for _, w := range []*workload{uc, web} {
				w.trustAll(bundleOf(local, ours), bundleOf(partner, theirs))
			}
			uc.serve(ours)
			web.serve(theirs)
			anyone := strings.Replace(permissive(echo(t)), `{prefix: "spiffe://cluster.local/"}`, `{prefix: "spiffe://"}`, 1)
			s := start(t, server, sdir, anyone).ready()
			c := start(t, envoy, cdir, outbound(s.addr("in"), "[istio]", ucID)).ready()
			l, stop := startLoad(t, c.addr("out"), 2)
			l.round()
			for _, w := range []*workload{uc, web} { // the partner's root changes
				w.trustAll(bundleOf(local, ours), bundleOf(partner, theirs, later))
				w.settle("ROOTCA")
			}
			web.serve(later)
			web.settle("default")
			l.round()
			stop()
			s.file("access.log", "mtls TLSv1.3 "+partnerID)
			impostor := issuePair(t, ours, partnerID)
			if err := handshake(s.addr("in"), impostor); err == nil {
				t.Error("our own authority's certificate for a member of the partner is accepted")
			}
			if err := handshake(s.addr("in"), issuePair(t, later, partnerID)); err != nil {
				t.Errorf("the partner's member: %v", err)
			}
			uc.unrefused()
			web.unrefused()
		})
	}
}

// handshake calls a server with a certificate, without looking at the server's,
// and returns what it has against it.
func handshake(addr string, pair *certs.KeyPair) error {
	c, err := tls.Dial("tcp", addr, &tls.Config{
		Certificates: []tls.Certificate{pair.TLS}, NextProtos: []string{"istio"}, InsecureSkipVerify: true,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1)) // TLS 1.3: the verdict on a client comes here
	return err
}

func TestSecretsThatAreNamedByFilesFollowTheFiles(t *testing.T) {
	for _, server := range kinds {
		t.Run(strings.ToLower(string(server)), func(t *testing.T) {
			dir, w := t.TempDir(), newWorld(t)
			a := beside(t, dir, ucID)
			chain, key, roots := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "roots.pem")
			put := func() *x509.Certificate {
				issued := mustIssue(t, w, ucID)
				write(t, key, string(issued.KeyPEM))
				write(t, chain, string(issued.ChainPEM))
				return issued.Cert
			}
			write(t, roots, string(w.root.RootPEM()))
			first := put()
			bootstrap := strings.NewReplacer("name: default,", "name: '"+"file-cert:"+chain+"~"+key+"',", "name: ROOTCA,", "name: 'file-root:"+roots+"',").Replace(permissive(echo(t)))
			s := start(t, server, dir, bootstrap).ready()
			s.uses(first)
			if err := handshake(s.addr("in"), issuePair(t, w.root, webID)); err != nil {
				t.Error(err)
			}
			s.uses(put())
			other := newWorld(t).root
			if err := handshake(s.addr("in"), issuePair(t, other, webID)); err == nil {
				t.Error("a foreign client is accepted")
			}
			write(t, roots, string(w.root.RootPEM())+string(other.RootPEM()))
			s.wait("its root", func() bool { return handshake(s.addr("in"), issuePair(t, other, webID)) == nil })
			for _, c := range a.server.Clients() {
				for _, one := range c.Secrets {
					if one.Refused != "" {
						t.Errorf("%+v", one)
					}
				}
			}
		})
	}
}

// Envoy asks again and again for a name that cannot be; its other secrets, and
// its log and ours, are not the worse for it.
func TestANameThatCannotBeDisturbsNoOtherSecret(t *testing.T) {
	for _, protocol := range secretProtocols {
		t.Run(strings.ToLower(protocol), func(t *testing.T) {
			dir, w := t.TempDir(), newWorld(t)
			a := beside(t, dir, ucID)
			a.trust(w.root)
			a.serve(w.root)
			in := permissive(echo(t))
			_, listener, _ := strings.Cut(in, "  listeners:")
			listener, _, _ = strings.Cut(listener, "  clusters:")
			wrong := strings.NewReplacer("name: in\n", "name: wrong\n", "name: default,", "name: no-such-secret,").Replace(listener)
			s := start(t, envoy, dir, over(protocol, strings.Replace(in, "  listeners:", "  listeners:"+wrong, 1)))
			s.wait("more than one try", func() bool { return s.stat("sds.no-such-secret.update_attempt") >= 3 })
			if n := strings.Count(a.log.String(), "secret is not served"); n != 1 {
				t.Errorf("we say it %d times:\n%s", n, a.log)
			}
			s.uses(a.serve(w.root))
			a.settle("default")
			if got := a.secret("default"); got.Acked == "" || got.Acked != got.Sent {
				t.Errorf("the other secret is %+v", got)
			}
			if n := s.stat("sds.default.update_failure"); n != 0 {
				t.Errorf("the other secret failed %d times", n)
			}
		})
	}
}

func TestWhatEnvoyRefusesIsLoggedOnceAndReplaced(t *testing.T) {
	for _, protocol := range secretProtocols {
		t.Run(strings.ToLower(protocol), func(t *testing.T) {
			dir, w := t.TempDir(), newWorld(t)
			a := beside(t, dir, ucID)
			a.trust(w.root)
			h := a.handle("default")
			good := issuePair(t, w.root, ucID)
			h.Publish(&certs.Secret{Name: "default", Version: "1", KeyPair: good})
			s := start(t, envoy, dir, over(protocol, permissive(echo(t)))).ready()
			wrong := *good
			wrong.TLS.PrivateKey = issuePair(t, w.root, ucID).TLS.PrivateKey
			h.Publish(&certs.Secret{Name: "default", Version: "2", KeyPair: &wrong})
			a.settle("default")
			refused := a.secret("default")
			if refused.Refused == "" || refused.Acked != "1" {
				t.Errorf("the status is %+v", refused)
			}
			t.Logf("Envoy says %q", refused.Refused)
			s.uses(good.TLS.Leaf)
			next := issuePair(t, w.root, ucID)
			h.Publish(&certs.Secret{Name: "default", Version: "3", KeyPair: next})
			a.settle("default")
			s.uses(next.TLS.Leaf)
			if got := a.secret("default"); got.Refused != "" || got.Acked != "3" {
				t.Errorf("then the status is %+v", got)
			}
			if n := strings.Count(a.log.String(), "client refuses a secret"); n != 1 {
				t.Errorf("the refusal is logged %d times:\n%s", n, a.log)
			}
			if n := s.stat("sds.default.update_rejected"); n != 1 {
				t.Errorf("Envoy was sent what it refuses %d times", n)
			}
		})
	}
}
