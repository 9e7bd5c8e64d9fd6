package csr

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	good := func() Options {
		return Options{Address: "istiod.istio-system.svc:15012", Trust: Trust{RootFile: "/root.pem"}}
	}
	for _, c := range []struct {
		name string
		edit func(*Options)
		want string // in the error; "" for none
	}{
		{"good", func(*Options) {}, ""},
		{"no trust", func(o *Options) { o.Trust = Trust{} }, "nothing says how to trust the authority"},
		{"no address", func(o *Options) { o.Address = "" }, `address "" is neither`},
		{"no port", func(o *Options) { o.Address = "istiod" }, `address "istiod" is neither`},
		{"port 0", func(o *Options) { o.Address = "istiod:0" }, `"0" is not a port`},
		{"no host", func(o *Options) { o.Address = ":15012" }, "has no host"},
		{"no path", func(o *Options) { o.Address = "unix:" }, "has no path"},
		{"a socket without a name", func(o *Options) { o.Address = "unix:/s" }, "a server name is needed"},
		{"a socket with a name", func(o *Options) { o.Address, o.ServerName = "unix:/s", "istiod" }, ""},
		{"plaintext far away", func(o *Options) { *o = Options{Address: "istiod:15010", Plaintext: true} }, `plaintext to "istiod:15010" is refused`},
		{"plaintext to an address", func(o *Options) { *o = Options{Address: "10.0.0.1:15010", Plaintext: true} }, "is refused"},
		{"plaintext that is allowed", func(o *Options) { *o = Options{Address: "istiod:15010", Plaintext: true, AllowPlaintext: true} }, ""},
		{"plaintext to loopback", func(o *Options) { *o = Options{Address: "127.0.0.2:15010", Plaintext: true} }, ""},
		{"plaintext to IPv6 loopback", func(o *Options) { *o = Options{Address: "[::1]:15010", Plaintext: true} }, ""},
		{"plaintext to localhost", func(o *Options) { *o = Options{Address: "localhost:15010", Plaintext: true} }, ""},
		{"plaintext to a socket", func(o *Options) { *o = Options{Address: "unix:/s", Plaintext: true} }, ""},
		{"plaintext with trust", func(o *Options) { o.Address, o.Plaintext = "localhost:15010", true }, "has no use for trust"},
		{"plaintext with a certificate", func(o *Options) {
			*o = Options{Address: "localhost:15010", Plaintext: true, Certificate: func() (*tls.Certificate, error) { return nil, nil }}
		}, "has no use for"},
		{"a small key", func(o *Options) { o.Key = RSA(1024) }, `key kind "RSA1024" is none of P256, P384 and RSA2048 to RSA4096`},
		{"a huge key", func(o *Options) { o.Key = RSA(8192) }, `"RSA8192"`},
		{"another curve", func(o *Options) { o.Key = "P521" }, `"P521"`},
		{"RSA with zeros", func(o *Options) { o.Key = "RSA02048" }, `"RSA02048"`},
		{"the largest key", func(o *Options) { o.Key = RSA(4096) }, ""},
		{"half a second", func(o *Options) { o.Lifetime = 1500 * time.Millisecond }, "lifetime 1.5s is not a number of whole seconds"},
		{"a negative lifetime", func(o *Options) { o.Lifetime = -time.Second }, "lifetime -1s"},
		{"a negative skew", func(o *Options) { o.Skew = -1 }, "skew -1ns is negative"},
		{"a negative timeout", func(o *Options) { o.Timeout = -1 }, "timeout -1ns is negative"},
		{"ID of another trust domain", func(o *Options) {
			o.ID, o.TrustDomain = spiffeid.RequireFromString(workload), spiffeid.RequireTrustDomainFromString("other")
		}, `is not in trust domain "other"`},
		{"ID without a path", func(o *Options) { o.ID = spiffeid.RequireFromString("spiffe://td") }, "not a workload"},
		{"cluster ID with a newline", func(o *Options) { o.ClusterID = "a\nb" }, "byte 1 cannot be in a header"},
		{"header of gRPC", func(o *Options) { o.Headers = map[string]string{"grpc-timeout": "1S"} }, "belongs to gRPC"},
		{"header with a space", func(o *Options) { o.Headers = map[string]string{"a b": ""} }, "not a header's name"},
		{"header with a secret newline", func(o *Options) { o.Headers = map[string]string{"x-key": "secret\n"} }, "byte 6 of its value"},
		{"token twice", func(o *Options) { o.TokenPath, o.Headers = "/t", map[string]string{"Authorization": "x"} }, "the token of /t is sent in it"},
		{"cluster ID twice", func(o *Options) { o.ClusterID, o.Headers = "c", map[string]string{"ClusterID": "x"} }, `the cluster ID "c" is sent in it`},
		{"two mistakes, the first", func(o *Options) { o.Key, o.Skew = "x", -1 }, `key kind "x"`},
		{"two mistakes, the second", func(o *Options) { o.Key, o.Skew = "x", -1 }, "skew -1ns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good()
			c.edit(&o)
			_, err := New(o)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret\n"):
				t.Errorf("a header's value is in %v", err)
			}
		})
	}
}

func TestServerNameIsTheAddressWithoutItsDot(t *testing.T) {
	o := Options{Address: "istiod.istio-system.svc.:15012", Trust: Trust{Bundle: func() []*x509.Certificate { return nil }}}
	c := must[*Client](t)(New(o))
	if c.opts.ServerName != "istiod.istio-system.svc" || c.opts.Timeout != 10*time.Second || c.opts.Key != P256 {
		t.Errorf("got %+v", c.opts)
	}
}
