package headers_test

import (
	"testing"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

func TestListsSayWhichMatcherFails(t *testing.T) {
	list, err := headers.Compile([]config.HeaderMatcher{{Name: "a"}, {Name: "b", String: &certs.StringMatcher{Pattern: "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fields message.Fields
		any    bool
		why    string
	}{
		{nil, false, "header a present: it is not there"},
		{message.Fields{{Name: "b", Value: "1"}}, true, "header a present: it is not there"},
		{message.Fields{{Name: "a"}, {Name: "b", Value: "2"}}, true, `header b exact "1": it is "2"`},
		{message.Fields{{Name: "a"}, {Name: "b", Value: "1"}}, true, ""},
	} {
		h := &message.Head{Method: "GET", Fields: c.fields}
		if got := list.Why(h); got != c.why || list.Match(h) != (c.why == "") || list.Any(h) != c.any {
			t.Errorf("with %v the reason is %q (all: %v, any: %v), want %q (any: %v)", c.fields, got, list.Match(h), list.Any(h), c.why, c.any)
		}
	}
	if list.Empty() || !headers.Matchers(nil).Empty() || headers.Matchers(nil).Any(&message.Head{}) {
		t.Error("only a list of nothing is empty, and it has none that matches")
	}
}
