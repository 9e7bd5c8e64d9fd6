package headers_test

import (
	"strings"
	"testing"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

func TestHeadersMatchAsInEnvoy(t *testing.T) {
	yes, no := true, false
	exact := func(s string) *certs.StringMatcher { return &certs.StringMatcher{Pattern: s} }
	for name, c := range map[string]struct {
		m    config.HeaderMatcher
		want bool
	}{
		"a value":                            {config.HeaderMatcher{Name: "X", String: exact("1")}, true},
		"another value":                      {config.HeaderMatcher{Name: "x", String: exact("2")}, false},
		"another value, inverted":            {config.HeaderMatcher{Name: "x", String: exact("2"), Invert: true}, true},
		"the value, inverted":                {config.HeaderMatcher{Name: "x", String: exact("1"), Invert: true}, false},
		"several values are one":             {config.HeaderMatcher{Name: "two", String: exact("a,b")}, true},
		"one of several values":              {config.HeaderMatcher{Name: "two", String: exact("a")}, false},
		"a missing header":                   {config.HeaderMatcher{Name: "no", String: exact("")}, false},
		"a missing header, inverted":         {config.HeaderMatcher{Name: "no", String: exact("1"), Invert: true}, false},
		"a missing header as empty":          {config.HeaderMatcher{Name: "no", String: exact(""), MissingAsEmpty: true}, true},
		"a missing header as empty, invert":  {config.HeaderMatcher{Name: "no", String: exact("1"), Invert: true, MissingAsEmpty: true}, true},
		"without criterion it is presence":   {config.HeaderMatcher{Name: "x"}, true},
		"without criterion, missing":         {config.HeaderMatcher{Name: "no"}, false},
		"without criterion, missing, invert": {config.HeaderMatcher{Name: "no", Invert: true}, true},
		"present":                            {config.HeaderMatcher{Name: "x", Present: &yes}, true},
		"absent, but it is there":            {config.HeaderMatcher{Name: "x", Present: &no}, false},
		"absent":                             {config.HeaderMatcher{Name: "no", Present: &no}, true},
		"absent, inverted":                   {config.HeaderMatcher{Name: "no", Present: &no, Invert: true}, false},
		"present, missing as empty":          {config.HeaderMatcher{Name: "no", Present: &yes, MissingAsEmpty: true}, true},
		"a number in its range":              {config.HeaderMatcher{Name: "x", Range: &config.Range64{Start: 1, End: 2}}, true},
		"a number at the end of its range":   {config.HeaderMatcher{Name: "x", Range: &config.Range64{Start: 0, End: 1}}, false},
		"no number":                          {config.HeaderMatcher{Name: "two", Range: &config.Range64{Start: -9, End: 9}}, false},
		"no number, inverted":                {config.HeaderMatcher{Name: "two", Range: &config.Range64{Start: -9, End: 9}, Invert: true}, true},
		"the path":                           {config.HeaderMatcher{Name: ":path", String: exact("/p?q")}, true},
		"host is the authority":              {config.HeaderMatcher{Name: "host", String: exact("h")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := headers.Compile([]config.HeaderMatcher{{Name: "x"}, c.m})
			if err != nil {
				t.Fatal(err)
			}
			h := message.NewHead()
			h.Method, h.Path, h.Authority = "GET", "/p?q", "h"
			h.Fields = message.Fields{{Name: "x", Value: "1"}, {Name: "two", Value: "a"}, {Name: "two", Value: "b"}}
			if got := m.Match(h); got != c.want {
				t.Errorf("%s matches: %v, want %v", m[1], got, c.want)
			}
		})
	}
}

func TestMatchersWithMistakesAreRefused(t *testing.T) {
	yes := true
	_, err := headers.Compile([]config.HeaderMatcher{{Name: "x"}, {}, {Name: "y", Present: &yes, Range: &config.Range64{}}})
	if err == nil || !strings.Contains(err.Error(), "[1]: the header has no name") || !strings.Contains(err.Error(), `[2]: header "y" has more`) {
		t.Errorf("the error is %v, want both mistakes", err)
	}
}
