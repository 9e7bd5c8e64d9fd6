package istioca

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A certificate below our own root, which somebody else with that root's key
// may have made, is an identity only if it is one of ours.
func TestClientCertificateBelowOurRootIsRefused(t *testing.T) {
	root := newGivenRoot(t)
	a := openTest(t, Config{Root: Root{Given: root.itself()}})
	s := newTestServer(t, a)
	now, key := time.Now(), testKey(t)
	good := func(change func(*x509.Certificate)) []*x509.Certificate {
		template := Order{ID: webID}.template()
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
		change(template)
		cert, err := root.ca.Sign(template, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{cert}
	}
	if id, err := s.verifyClient(tls.ConnectionState{PeerCertificates: good(func(*x509.Certificate) {})}); err != nil || id != webID {
		t.Fatalf("a good one: got %s, %v", id, err)
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"for servers only": {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "incompatible key usage"},
		"expired":          {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, "has expired"},
		"not valid yet":    {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }, "not yet valid"},
		"an authority": {func(c *x509.Certificate) {
			c.IsCA = true
			c.KeyUsage |= x509.KeyUsageCertSign
		}, "it is an authority's"},
		"no identity":             {func(c *x509.Certificate) { c.URIs = nil }, "URI SAN"},
		"two identities":          {func(c *x509.Certificate) { c.URIs = uris(t, webID.String(), webID.String()+"x") }, "URI SAN"},
		"no SPIFFE ID":            {func(c *x509.Certificate) { c.URIs = uris(t, "https://cluster.local/a") }, "scheme"},
		"another trust domain":    {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://other.org/ns/dev/sa/web") }, "is not in the trust domain"},
		"the trust domain itself": {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://cluster.local") }, "names the trust domain"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := s.verifyClient(tls.ConnectionState{PeerCertificates: good(c.change)})
			if err == nil {
				t.Fatalf("got %s", id)
			}
			wantText(t, err, c.want)
		})
	}
}

// The serving certificate follows the rotation, and brings its root along for
// clients that know only the pin.
func TestServingCertificateFollowsTheSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		s := newTestServer(t, a)
		before, err := s.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		mustIssue(t, a, 10*24*time.Hour) // the old authority is not dropped so soon
		plan, err := a.RotateRoot(Root{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(plan.Until) - time.Hour)
		last, err := s.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		after, err := s.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		now, err := a.plan()
		if err != nil || now.Phase != Retiring {
			t.Fatalf("got phase %s, %v, want %s", now.Phase, err, Retiring)
		}
		for _, c := range []struct {
			name string
			cert *tls.Certificate
			root *x509.Certificate
		}{{"before", before, now.Roots[0]}, {"in the old one's last hour", last, now.Roots[0]}, {"after", after, now.Roots[1]}} {
			if err := c.cert.Leaf.CheckSignatureFrom(c.root); err != nil {
				t.Errorf("%s: not signed by the authority that signs: %v", c.name, err)
			}
			if !slices.ContainsFunc(c.cert.Certificate, func(der []byte) bool { return string(der) == string(c.root.Raw) }) {
				t.Errorf("%s: the root is not presented", c.name)
			}
		}
	})
}
