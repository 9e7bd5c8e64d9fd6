package headermutation_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/headermutation"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// set is a mutation that makes name have that value.
func set(name, value string) []config.HeaderMutate {
	return []config.HeaderMutate{{Append: &config.HeaderValueOption{Name: name, Value: value, Action: config.HeaderOverwrite}}}
}

func TestEachPartOfTheMessagesIsChanged(t *testing.T) {
	f, err := headermutation.New(&config.HTTPFilter{Config: &config.HeaderMutation{
		Request: set("x", "request %REQ(y)%"), RequestTrailers: set("x", "request trailers"),
		Response: set("x", "response"), ResponseTrailers: set("x", "response trailers"),
	}}, filtertest.Deps(stats.New()))
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("POST", "/", "y", "of y"), false)
	s.RequestData("body", false)
	s.RequestTrailers("a", "b")
	s.ResponseHead(filtertest.Response(200), false)
	s.ResponseData("body", false)
	s.ResponseTrailers("a", "b")
	got := []string{s.Up.Head.Value("x"), s.Up.Trailers.Value("x"), s.Down.Head.Value("x"), s.Down.Trailers.Value("x"), string(s.Up.Body), string(s.Down.Body)}
	if diff := cmp.Diff([]string{"request of y", "request trailers", "response", "response trailers", "body", "body"}, got); diff != "" {
		t.Errorf("what passed (-want +got):\n%s", diff)
	}
}

func TestTheLeastSpecificWinsUnlessToldOtherwise(t *testing.T) {
	for mostSpecific, want := range map[bool]string{false: "host", true: "route"} {
		f, err := headermutation.New(&config.HTTPFilter{Config: &config.HeaderMutation{Request: set("x", "filter"), MostSpecificWins: mostSpecific}}, filtertest.Deps(stats.New()))
		if err != nil {
			t.Fatal(err)
		}
		s := filtertest.New(t)
		s.Overriding = []*config.FilterOverride{
			{Config: &config.HeaderMutation{Request: set("x", "host")}},
			{Disabled: false},
			{Config: &config.HeaderMutation{Request: set("x", "route")}},
		}
		s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
		if diff := cmp.Diff(message.Fields{{Name: "x", Value: want}}, s.Up.Head.Fields); diff != "" {
			t.Errorf("most specific wins: %v (-want +got):\n%s", mostSpecific, diff)
		}
	}
}

func TestMistakesAreRefused(t *testing.T) {
	_, err := headermutation.New(&config.HTTPFilter{Config: &config.HeaderMutation{
		Request: set("x", "%NO_SUCH%"), ResponseTrailers: []config.HeaderMutate{{}},
	}}, filtertest.Deps(stats.New()))
	if err == nil || !strings.Contains(err.Error(), "request_mutations[0].append") || !strings.Contains(err.Error(), "response_trailers_mutations[0]") {
		t.Errorf("the error is %v, want both mistakes", err)
	}
	f, err := headermutation.New(&config.HTTPFilter{Config: &config.HeaderMutation{}}, filtertest.Deps(stats.New()))
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t)
	s.Overriding = []*config.FilterOverride{{Config: &config.HeaderMutation{Request: []config.HeaderMutate{{}}}}}
	s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
	if s.Replied == nil || s.Replied.Status != 500 || s.Replies != 1 {
		t.Errorf("a broken route got %+v, want 500", s.Replied)
	}
}
