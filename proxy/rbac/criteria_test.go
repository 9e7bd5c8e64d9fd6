package rbac

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/tlsmux"
)

func exact(s string) *certs.StringMatcher {
	return &certs.StringMatcher{Kind: certs.MatchExact, Pattern: s}
}

func prefixed(s string) *certs.StringMatcher {
	return &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: s}
}

func regex(t *testing.T, s string) *certs.StringMatcher {
	t.Helper()
	re, err := certs.CompileRegex(s)
	if err != nil {
		t.Fatal(err)
	}
	return &certs.StringMatcher{Kind: certs.MatchRegex, Pattern: s, Regex: re}
}

func cidr(s string) *netip.Prefix {
	p := netip.MustParsePrefix(s)
	return &p
}

func pointer[T any](v T) *T { return &v }

// certOf is a certificate with the names given. Nothing verifies it here.
func certOf(t *testing.T, subject pkix.Name, uris, dns []string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, DNSNames: dns, NotAfter: time.Now().Add(time.Hour)}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

const (
	webID  = "spiffe://prod/ns/web/sa/cart"
	evilID = "spiffe://prod/ns/evil/sa/x"
)

func peer(t *testing.T, verified bool, uris ...string) *tlsmux.State {
	t.Helper()
	cert := certOf(t, pkix.Name{CommonName: "cart", Organization: []string{"acme"}}, uris, []string{"cart.web"})
	return &tlsmux.State{Peer: []*x509.Certificate{cert}, PeerVerified: verified}
}

func described() *flow.Info {
	addr := func(s string) flow.Addr { return flow.Addr{AddrPort: netip.MustParseAddrPort(s)} }
	return &flow.Info{
		Remote: addr("10.0.0.7:40000"), DirectRemote: addr("192.168.1.1:50000"),
		Local: addr("10.1.2.3:8443"), DirectLocal: addr("127.0.0.1:15006"), SNI: "orders.shop",
	}
}

func TestPermissionMatchesAsInEnvoy(t *testing.T) {
	v6 := func(i *flow.Info) {
		i.Local.AddrPort = netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 80)
	}
	unix := func(i *flow.Info) { i.Local = flow.Addr{Path: "/run/a.sock"} }
	yes, no := &config.Permission{Any: true}, &config.Permission{Not: &config.Permission{Any: true}}
	for name, c := range map[string]struct {
		p      *config.Permission
		change func(*flow.Info)
		want   bool
	}{
		"any":                                 {p: yes, want: true},
		"not any":                             {p: no},
		"and of both":                         {p: &config.Permission{And: []*config.Permission{yes, yes}}, want: true},
		"and of one":                          {p: &config.Permission{And: []*config.Permission{yes, no}}},
		"and of none":                         {p: &config.Permission{And: []*config.Permission{}}, want: true},
		"or of one":                           {p: &config.Permission{Or: []*config.Permission{no, yes}}, want: true},
		"or of neither":                       {p: &config.Permission{Or: []*config.Permission{no, no}}},
		"or of none":                          {p: &config.Permission{Or: []*config.Permission{}}},
		"not of an or":                        {p: &config.Permission{Not: &config.Permission{Or: []*config.Permission{no, no}}}, want: true},
		"destination in its prefix":           {p: &config.Permission{DestinationIP: cidr("10.1.0.0/16")}, want: true},
		"destination, not the socket's own":   {p: &config.Permission{DestinationIP: cidr("127.0.0.1/32")}},
		"destination of the other family":     {p: &config.Permission{DestinationIP: cidr("::/0")}},
		"destination with a zone":             {p: &config.Permission{DestinationIP: cidr("fe80::/10")}, change: v6, want: true},
		"destination of a unix socket":        {p: &config.Permission{DestinationIP: cidr("0.0.0.0/0")}, change: unix},
		"destination port":                    {p: &config.Permission{DestinationPort: pointer[uint16](8443)}, want: true},
		"another destination port":            {p: &config.Permission{DestinationPort: pointer[uint16](443)}},
		"port of a unix socket":               {p: &config.Permission{DestinationPort: pointer[uint16](0)}, change: unix},
		"port range, first":                   {p: &config.Permission{PortRange: &config.PortRange{Start: 8443, End: 8444}}, want: true},
		"port range, its end is not in it":    {p: &config.Permission{PortRange: &config.PortRange{Start: 8000, End: 8443}}},
		"port range up to 65536":              {p: &config.Permission{PortRange: &config.PortRange{Start: 0, End: 65536}}, want: true},
		"port range of a unix socket":         {p: &config.Permission{PortRange: &config.PortRange{Start: 0, End: 65536}}, change: unix},
		"server name":                         {p: &config.Permission{RequestedServer: exact("orders.shop")}, want: true},
		"server name by regex, whole":         {p: &config.Permission{RequestedServer: regex(t, "orders")}},
		"no server name is an empty one":      {p: &config.Permission{RequestedServer: exact("")}, change: func(i *flow.Info) { i.SNI = "" }, want: true},
		"what only HTTP has never matches":    {p: &config.Permission{HTTPOnly: true}},
		"not what only HTTP has does match":   {p: &config.Permission{Not: &config.Permission{HTTPOnly: true}}, want: true},
		"metadata that is not there":          {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{String: exact("v")}}}},
		"metadata that is not there, invert":  {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Invert: true, Value: config.ValueMatcher{String: exact("v")}}}, want: true},
		"metadata through what is not a map":  {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k", "x"}, Value: config.ValueMatcher{Present: pointer(true)}}}, change: withMetadata("f", "k", structpb.NewStringValue("v"))},
		"metadata that is there":              {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{String: exact("v")}}}, change: withMetadata("f", "k", structpb.NewStringValue("v")), want: true},
		"metadata that is there, but invert":  {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Invert: true, Value: config.ValueMatcher{String: exact("v")}}}, change: withMetadata("f", "k", structpb.NewStringValue("v"))},
		"metadata in the depth of a struct":   {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"a", "b"}, Value: config.ValueMatcher{Number: &config.NumberMatcher{Start: 1, End: 2}}}}, change: withMetadata("f", "a", structOf("b", structpb.NewNumberValue(1))), want: true},
		"metadata number at the range's end":  {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Number: &config.NumberMatcher{Start: 1, End: 2}}}}, change: withMetadata("f", "k", structpb.NewNumberValue(2))},
		"metadata number exactly":             {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Number: &config.NumberMatcher{Exact: pointer(2.0)}}}}, change: withMetadata("f", "k", structpb.NewNumberValue(2)), want: true},
		"metadata bool":                       {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Bool: pointer(false)}}}, change: withMetadata("f", "k", structpb.NewBoolValue(false)), want: true},
		"metadata false is not missing":       {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Bool: pointer(false)}}}},
		"metadata null":                       {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Null: true}}}, change: withMetadata("f", "k", structpb.NewNullValue()), want: true},
		"metadata null is not missing":        {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Null: true}}}},
		"metadata present":                    {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Present: pointer(true)}}}, change: withMetadata("f", "k", structpb.NewBoolValue(false)), want: true},
		"present_match false matches nothing": {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Present: pointer(false)}}}},
		"present_match false, it is there":    {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Present: pointer(false)}}}, change: withMetadata("f", "k", structpb.NewBoolValue(true))},
		"metadata list, one of it":            {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{ListOne: &config.ValueMatcher{String: exact("b")}}}}, change: withMetadata("f", "k", listOf("a", "b")), want: true},
		"metadata list, none of it":           {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{ListOne: &config.ValueMatcher{String: exact("c")}}}}, change: withMetadata("f", "k", listOf("a", "b"))},
		"metadata or":                         {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Or: []config.ValueMatcher{{Bool: pointer(true)}, {String: exact("v")}}}}}, change: withMetadata("f", "k", structpb.NewStringValue("v")), want: true},
		"metadata matcher with nothing set":   {p: &config.Permission{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}}}, change: withMetadata("f", "k", structpb.NewStringValue("v"))},
	} {
		t.Run(name, func(t *testing.T) {
			info := described()
			if c.change != nil {
				c.change(info)
			}
			r, err := compilePermission(c.p)
			if err != nil {
				t.Fatal(err)
			}
			checkRule(t, r, info, c.want)
		})
	}
}

func withMetadata(ns, key string, v *structpb.Value) func(*flow.Info) {
	return func(i *flow.Info) { i.SetMetadata(ns, key, v) }
}

func structOf(key string, v *structpb.Value) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{key: v}})
}

func listOf(texts ...string) *structpb.Value {
	l := &structpb.ListValue{}
	for _, s := range texts {
		l.Values = append(l.Values, structpb.NewStringValue(s))
	}
	return structpb.NewListValue(l)
}

// checkRule checks match, and that a rule that fails says why.
func checkRule(t *testing.T, r rule, info *flow.Info, want bool) {
	t.Helper()
	f := (*facts)(info)
	got := r.match(f)
	if got != want {
		t.Errorf("%s matches: %v, want %v", r, got, want)
	}
	if !got && r.why(f) == "" {
		t.Errorf("%s does not say why it failed", r)
	}
}

func TestPrincipalMatchesAsInEnvoy(t *testing.T) {
	web := peer(t, true, webID)
	tls := func(s *tlsmux.State) func(*flow.Info) { return func(i *flow.Info) { i.Downstream = s } }
	name := func(m *certs.StringMatcher) *config.Principal {
		return &config.Principal{Authenticated: &config.Authenticated{Name: m}}
	}
	anyone := &config.Principal{Any: true}
	for title, c := range map[string]struct {
		p      *config.Principal
		change func(*flow.Info)
		want   bool
	}{
		"any":                              {p: anyone, want: true},
		"and":                              {p: &config.Principal{And: []*config.Principal{anyone, name(exact(webID))}}, change: tls(web), want: true},
		"and with one that fails":          {p: &config.Principal{And: []*config.Principal{anyone, name(exact(evilID))}}, change: tls(web)},
		"or":                               {p: &config.Principal{Or: []*config.Principal{name(exact(evilID)), name(exact(webID))}}, change: tls(web), want: true},
		"or with none":                     {p: &config.Principal{Or: []*config.Principal{name(exact(evilID))}}, change: tls(web)},
		"not":                              {p: &config.Principal{Not: name(exact(evilID))}, change: tls(web), want: true},
		"not, but it is":                   {p: &config.Principal{Not: name(exact(webID))}, change: tls(web)},
		"URI SAN":                          {p: name(exact(webID)), change: tls(web), want: true},
		"URI SAN by prefix":                {p: name(prefixed("spiffe://prod/ns/web/")), change: tls(web), want: true},
		"another URI SAN":                  {p: name(exact(evilID)), change: tls(web)},
		"a longer URI SAN":                 {p: name(exact(webID)), change: tls(peer(t, true, webID+"x"))},
		"the second URI SAN":               {p: name(exact(webID)), change: tls(peer(t, true, evilID, webID)), want: true},
		"DNS SAN though there is a URI":    {p: name(exact("cart.web")), change: tls(web), want: true},
		"subject though there are SANs":    {p: name(exact("CN=cart,O=acme")), change: tls(web), want: true},
		"authenticated":                    {p: name(nil), change: tls(web), want: true},
		"authenticated without TLS":        {p: name(nil)},
		"a name without TLS":               {p: name(exact(webID))},
		"any name without TLS":             {p: name(regex(t, ".*"))},
		"authenticated, no certificate":    {p: name(nil), change: tls(&tlsmux.State{})},
		"any name, no certificate":         {p: name(regex(t, ".*")), change: tls(&tlsmux.State{})},
		"verified, but no certificate":     {p: name(regex(t, ".*")), change: tls(&tlsmux.State{PeerVerified: true})},
		"a name that was not verified":     {p: name(exact(webID)), change: tls(peer(t, false, webID))},
		"authenticated, not verified":      {p: name(nil), change: tls(peer(t, false, webID))},
		"not a name that was not verified": {p: &config.Principal{Not: name(exact(webID))}, change: tls(peer(t, false, webID)), want: true},
		"source":                           {p: &config.Principal{SourceIP: cidr("10.0.0.0/24")}, want: true},
		"source is the restored address":   {p: &config.Principal{SourceIP: cidr("192.168.0.0/16")}},
		"direct remote":                    {p: &config.Principal{DirectRemoteIP: cidr("192.168.0.0/16")}, want: true},
		"direct remote is the socket's":    {p: &config.Principal{DirectRemoteIP: cidr("10.0.0.0/8")}},
		"source of a unix socket":          {p: &config.Principal{SourceIP: cidr("0.0.0.0/0")}, change: func(i *flow.Info) { i.Remote = flow.Addr{Path: "@x"} }},
		"filter state":                     {p: &config.Principal{FilterState: &config.FilterStateMatcher{Key: "k", String: exact("v")}}, change: func(i *flow.Info) { i.SetState("k", "v") }, want: true},
		"filter state of another value":    {p: &config.Principal{FilterState: &config.FilterStateMatcher{Key: "k", String: exact("v")}}, change: func(i *flow.Info) { i.SetState("k", "w") }},
		"filter state that is not set":     {p: &config.Principal{FilterState: &config.FilterStateMatcher{Key: "k", String: exact("")}}},
		"metadata":                         {p: &config.Principal{Metadata: &config.MetadataMatcher{Filter: "f", Path: []string{"k"}, Value: config.ValueMatcher{Present: pointer(true)}}}, change: withMetadata("f", "k", structpb.NewNullValue()), want: true},
		"what only HTTP has":               {p: &config.Principal{HTTPOnly: true}},
	} {
		t.Run(title, func(t *testing.T) {
			info := described()
			if c.change != nil {
				c.change(info)
			}
			r, err := compilePrincipal(c.p)
			if err != nil {
				t.Fatal(err)
			}
			checkRule(t, r, info, c.want)
		})
	}
}

func TestSubjectIsWrittenAsOpenSSLWritesIt(t *testing.T) {
	email := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	subject := pkix.Name{
		CommonName: "cli", Organization: []string{"acme"}, OrganizationalUnit: []string{"x,y"},
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: email, Value: "a@b"}},
	}
	// The parts are in the order of the certificate, the last first.
	if got, want := subjectOf(certOf(t, subject, nil, nil)), `emailAddress=a@b,CN=cli,OU=x\,y,O=acme`; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
}
