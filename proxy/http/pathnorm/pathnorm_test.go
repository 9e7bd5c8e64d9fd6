package pathnorm_test

import (
	"strings"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/http/pathnorm"
)

// The results are those of Envoy 1.40 with the same options.
func TestPathsBecomeWhatEnvoyMakesOfThem(t *testing.T) {
	const refused = "refused"
	for path, want := range map[string]struct{ normal, all string }{
		"/":                   {"/", "/"},
		"//":                  {"//", "//"},
		"///":                 {"///", "//"},
		"/a//b":               {"/a//b", "/a/b"},
		"/a/./b":              {"/a/b", "/a/b"},
		"/a/../b":             {"/b", "/b"},
		"/a/..":               {"/", "/"},
		"/a/.":                {"/a/", "/a/"},
		"/..":                 {"/", "/"},
		"/../a":               {"/a", "/a"},
		"/a/b/../../../c":     {"/c", "/c"},
		`/a\b`:                {"/a/b", "/a/b"},
		"/a/%2e/b":            {"/a/b", "/a/b"},
		"/a/%2E%2e/b":         {"/b", "/b"},
		"/a/.%2e":             {"/", "/"},
		"/a/%2e.":             {"/", "/"},
		"/a/%2f..":            {"/a/%2f..", "/a/"},
		"/a/b%2f%2f..":        {"/a/b%2f%2f..", "/a/b/"},
		"/a%5cb":              {"/a%5cb", "/a/b"},
		"/%41%7e%2D":          {"/A~-", "/A~-"},
		"/%":                  {"/%", "/%"},
		"/%4":                 {"/%4", "/%4"},
		"/%zz":                {"/%zz", "/%zz"},
		"/%00":                {refused, refused},
		"/a/...":              {"/a/...", "/a/..."},
		"/a/..b":              {"/a/..b", "/a/..b"},
		"/a./b":               {"/a./b", "/a./b"},
		"/.a":                 {"/.a", "/.a"},
		"/%2520":              {"/%2520", "/%2520"},
		"/%c3%a9":             {"/%c3%a9", "/%c3%a9"},
		"/a;b":                {"/a;b", "/a;b"},
		"/a?b/../c#":          {refused, refused},
		"/a#b":                {refused, refused},
		"/a?x=%2f//..":        {"/a?x=%2f//..", "/a?x=%2f//.."},
		"/a//../b":            {"/a/b", "/a/b"},
		"/a/b/..//c":          {"/a//c", "/a/c"},
		"/%2e%2e/%2e":         {"/", "/"},
		"/a/.?x":              {"/a/?x", "/a/?x"},
		"/a/..?x":             {"/?x", "/?x"},
		"/a%2fb?c%2fd":        {"/a%2fb?c%2fd", "/a/b?c%2fd"},
		"/!\"$&'()*+,-:;<=>@": {"/!%22$&'()*+,-:;%3C=%3E@", "/!%22$&'()*+,-:;%3C=%3E@"},
		"/[]^_`{|}~":          {"/[]%5E_%60%7B%7C%7D~", "/[]%5E_%60%7B%7C%7D~"},
		"/%21%2a%5B%5e%7C%7f": {"/%21%2a%5B%5e%7C%7f", "/%21%2a%5B%5e%7C%7f"},
	} {
		for o, want := range map[pathnorm.Options]string{
			{}:                want0(path),
			{Normalize: true}: want.normal,
			{Normalize: true, MergeSlashes: true, EscapedSlashes: config.SlashesUnescapeForward}: want.all,
		} {
			res := pathnorm.Path(path, o)
			got := res.Path
			if res.Refused {
				got = refused
			}
			if got != want || res.Redirect {
				t.Errorf("%q with %+v becomes %q (redirect %v), want %q", path, o, got, res.Redirect, want)
			}
		}
	}
}

// want0 is a path with no options: only fragments are refused.
func want0(path string) string {
	if strings.Contains(path, "#") {
		return "refused"
	}
	return path
}

func TestEscapedSlashesAreTreatedAsConfigured(t *testing.T) {
	for action, want := range map[config.EscapedSlashes]pathnorm.Result{
		config.SlashesKeep:             {Path: "/a%2Fb%5cc?%2f"},
		config.SlashesReject:           {Path: "/a%2Fb%5cc?%2f", Refused: true},
		config.SlashesUnescapeRedirect: {Path: `/a/b\c?%2f`, Redirect: true},
		config.SlashesUnescapeForward:  {Path: `/a/b\c?%2f`},
	} {
		o := pathnorm.Options{EscapedSlashes: action}
		if got := pathnorm.Path("/a%2Fb%5cc?%2f", o); got != want {
			t.Errorf("action %d makes %+v, want %+v", action, got, want)
		}
		if got, want := pathnorm.Path("/a?%2f", o), (pathnorm.Result{Path: "/a?%2f"}); got != want {
			t.Errorf("action %d makes %+v of a query, want %+v", action, got, want)
		}
	}
}

func TestAPathThatIsNormalCostsNothing(t *testing.T) {
	o := pathnorm.Options{Normalize: true, MergeSlashes: true, EscapedSlashes: config.SlashesReject}
	if n := testing.AllocsPerRun(100, func() { pathnorm.Path("/api/v1.2/things;v=1?q=%2f&r=..", o) }); n != 0 {
		t.Errorf("it cost %v allocations, want none", n)
	}
}

func TestHostsLoseTheirPorts(t *testing.T) {
	for _, c := range []struct {
		authority      string
		port           uint16
		host, stripped string
	}{
		{"h.com:80", 0, "h.com", "80"},
		{"h.com:80", 80, "h.com", "80"},
		{"h.com:81", 80, "h.com:81", ""},
		{"h.com", 0, "h.com", ""},
		{"h.com:x", 0, "h.com:x", ""},
		{"h.com:", 0, "h.com:", ""},
		{"[::1]", 0, "[::1]", ""},
		{"[::1]:80", 0, "[::1]", "80"},
	} {
		if host, stripped := pathnorm.StripPort(c.authority, c.port); host != c.host || stripped != c.stripped {
			t.Errorf("%q without port %d is %q and %q, want %q and %q", c.authority, c.port, host, stripped, c.host, c.stripped)
		}
	}
	for host, want := range map[string]string{
		"h.com.": "h.com", "h.com": "h.com", "h.com.:80": "h.com:80", ".": "", "h..": "h.", "[::1]:80": "[::1]:80",
	} {
		if got := pathnorm.StripTrailingDot(host); got != want {
			t.Errorf("%q without its dot is %q, want %q", host, got, want)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b?c", `/%2e%2e\%2f`, "", "x", "/%00", "//./..//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		o := pathnorm.Options{Normalize: true, MergeSlashes: true, EscapedSlashes: config.SlashesUnescapeForward}
		res := pathnorm.Path(path, o)
		if res.Refused {
			if res.Path != path {
				t.Fatalf("a refused path is changed to %q", res.Path)
			}
			return
		}
		plain, query, _ := strings.Cut(res.Path, "?")
		_, was, _ := strings.Cut(path, "?")
		if query != was {
			t.Fatalf("the query %q is now %q", was, query)
		}
		if plain == "" || plain[0] != '/' {
			t.Fatalf("%q has no slash at its begin", plain)
		}
		for segment := range strings.SplitSeq(plain, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q still has dot segments", plain)
			}
		}
		if strings.ContainsAny(plain, "\\\x00 #") || plain != "//" && strings.Contains(plain, "//") {
			t.Fatalf("%q has what a normal path has not", plain)
		}
	})
}
