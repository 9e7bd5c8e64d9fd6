package route_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// The clusters are those that Envoy 1.40 chooses of 64 with weight 1 each.
func TestHashesAreEnvoys(t *testing.T) {
	header, query, ip := config.HashPolicy{Header: "a"}, config.HashPolicy{Query: "q"}, config.HashPolicy{SourceIP: true}
	cookie := config.HashPolicy{Cookie: &config.HashCookie{Name: "c"}}
	made := config.HashPolicy{Cookie: &config.HashCookie{Name: "c", TTL: ptr(time.Second)}}
	for name, c := range map[string]struct {
		policies []config.HashPolicy
		path     string
		fields   []string
		want     string
	}{
		"a header":                  {[]config.HashPolicy{header}, "/", []string{"a: hello"}, "35"},
		"several values":            {[]config.HashPolicy{header}, "/", []string{"a: a", "a: b"}, "38"},
		"several values, unordered": {[]config.HashPolicy{header}, "/", []string{"a: b", "a: a"}, "38"},
		"a value with a comma":      {[]config.HashPolicy{header}, "/", []string{"a: a,b"}, "32"},
		"values that are joined":    {[]config.HashPolicy{{Header: "user-agent"}}, "/", []string{"user-agent: a", "user-agent: b"}, "32"},
		"two policies":              {[]config.HashPolicy{header, query}, "/wh2?q=z", []string{"a: hello"}, "14"},
		"the second of two":         {[]config.HashPolicy{header, query}, "/wh2?q=z", nil, "8"},
		"an empty parameter":        {[]config.HashPolicy{header, query}, "/wh2?q", []string{"a: hello"}, "31"},
		"a terminal policy":         {[]config.HashPolicy{{Header: "a", Terminal: true}, query}, "/wh3?q=z", []string{"a: hello"}, "35"},
		"a rewritten header":        {[]config.HashPolicy{{Header: "a", HeaderRegex: &config.RegexRewrite{Pattern: "^x(.)", Substitution: `\1`}}}, "/", []string{"a: xyz"}, "58"},
		"a cookie and an address":   {[]config.HashPolicy{cookie, ip}, "/", []string{"cookie: c=v"}, "36"},
		"an address":                {[]config.HashPolicy{cookie, ip}, "/", nil, "39"},
		"a cookie is not made here": {[]config.HashPolicy{made, ip}, "/", nil, "39"},
		"the path":                  {[]config.HashPolicy{{Header: ":path"}}, "/wh6?x", nil, "38"},
		"the same policy twice":     {[]config.HashPolicy{ip, ip}, "/", nil, "40"},
	} {
		t.Run(name, func(t *testing.T) {
			rt := to(config.RouteMatch{Prefix: ptr("/")}, "")
			rt.Action.HashPolicies = c.policies
			rt.Action.Weighted = &config.WeightedClusters{UseHash: true, Clusters: equal(64)}
			r := request(c.path, c.fields...)
			r.Info.Remote = flow.Addr{AddrPort: netip.MustParseAddrPort("127.0.0.1:1")}
			if got := cluster(compile(t, all(rt)), r); got != c.want {
				t.Errorf("the hash chooses cluster %s, want %s", got, c.want)
			}
		})
	}
}

func equal(n int) []config.WeightedHTTPCluster {
	var out []config.WeightedHTTPCluster
	for i := range n {
		out = append(out, config.WeightedHTTPCluster{Name: fmt.Sprint(i), Weight: 1})
	}
	return out
}

func TestCookiesAreMadeForTheHash(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "c")
	rt.Action.HashPolicies = []config.HashPolicy{
		{Cookie: &config.HashCookie{Name: "c1", TTL: ptr(10 * time.Second), Path: "/p", Attributes: [][2]string{{"SameSite", "Strict"}, {"Secure", ""}}}},
		{Cookie: &config.HashCookie{Name: "c2", TTL: ptr(time.Duration(0))}},
		{Cookie: &config.HashCookie{Name: "c3"}},
	}
	table := compile(t, all(rt))
	conn := &flow.Info{
		Remote: flow.Addr{AddrPort: netip.MustParseAddrPort("127.0.0.1:35043")},
		Local:  flow.Addr{AddrPort: netip.MustParseAddrPort("127.0.0.1:55103")},
	}
	for _, c := range []struct {
		fields []string
		want   []string
	}{
		{nil, []string{ // Envoy's for these addresses
			`c1="5bfb04d3d58d4a77"; Max-Age=10; Path=/p; SameSite=Strict; Secure; HttpOnly`, `c2="5bfb04d3d58d4a77"; HttpOnly`,
		}},
		{[]string{"cookie: c1=x"}, []string{`c2="5bfb04d3d58d4a77"; HttpOnly`}},
		{[]string{"cookie: c1=; c2=y"}, []string{`c1="5bfb04d3d58d4a77"; Max-Age=10; Path=/p; SameSite=Strict; Secure; HttpOnly`}},
		{[]string{"cookie: c1=x; c2=y"}, nil},
	} {
		r := request("/", c.fields...)
		r.Info.HTTP.Connection = conn
		m, _ := table.Find(r)
		hash, got, ok := m.HashCookies(r)
		if !slices.Equal(got, c.want) || !ok {
			t.Errorf("with %q the cookies are %q, want %q", c.fields, got, c.want)
		}
		again, first, _ := m.Hash(r)
		if again != hash || len(got) > 0 && first != got[0] {
			t.Errorf("Hash is %x with %q, and HashCookies %x with %q", again, first, hash, got)
		}
	}
}

func TestClustersAreChosenByWeight(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "")
	rt.Action.Weighted = &config.WeightedClusters{RandomHeader: "rv", Clusters: []config.WeightedHTTPCluster{
		{Name: "none", Weight: 0}, {Name: "one", Weight: 1}, {Header: "to", Weight: 2},
	}}
	table := compile(t, all(rt))
	for _, c := range []struct {
		random uint64
		fields []string
		want   string
	}{
		{0, nil, "one"},
		{1, nil, ""},
		{1, []string{"to: there", "to: elsewhere"}, "there"},
		{2, []string{"to: there"}, "there"},
		{3, nil, "one"},
		{1, []string{"rv: 3"}, "one"},
		{0, []string{"rv: 18446744073709551614"}, ""}, // of three, the third
		{0, []string{"rv: 1", "rv: 1"}, "one"},
		{0, []string{"rv: -1"}, "one"},
		{1, []string{"rv: +3"}, "one"},
	} {
		r := request("/", c.fields...)
		r.Random = c.random
		m, _ := table.Find(r)
		if m.Cluster != c.want || m.Weighted == nil {
			t.Errorf("%d with %q chooses %q (%+v), want %q", c.random, c.fields, m.Cluster, m.Weighted, c.want)
		}
	}
}
