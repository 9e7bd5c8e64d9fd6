package edit_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
)

// format says "%EVIL%" for a value with a line end and "" for "%NONE%".
func format(text string, _ bool) (func(*flow.Info) string, error) {
	value := strings.NewReplacer("%EVIL%", "a\r\nb: c\x00", "%NONE%", "").Replace(text)
	return func(*flow.Info) string { return value }, nil
}

func TestActionDecidesWhatBecomesOfAHeader(t *testing.T) {
	const (
		appended  = config.HeaderAppend
		absent    = config.HeaderAddIfAbsent
		overwrite = config.HeaderOverwrite
		existing  = config.HeaderOverwriteIfExists
	)
	for name, c := range map[string]struct {
		option config.HeaderValueOption
		want   string // the fields afterwards, of x:1 y:2 x:3
	}{
		"append to what is there":    {config.HeaderValueOption{Name: "X", Value: "n", Action: appended}, "x:1 y:2 x:3 x:n"},
		"append to nothing":          {config.HeaderValueOption{Name: "z", Value: "n", Action: appended}, "x:1 y:2 x:3 z:n"},
		"add where it is there":      {config.HeaderValueOption{Name: "x", Value: "n", Action: absent}, "x:1 y:2 x:3"},
		"add where it is not":        {config.HeaderValueOption{Name: "z", Value: "n", Action: absent}, "x:1 y:2 x:3 z:n"},
		"overwrite all values":       {config.HeaderValueOption{Name: "x", Value: "n", Action: overwrite}, "x:n y:2"},
		"overwrite what is not":      {config.HeaderValueOption{Name: "z", Value: "n", Action: overwrite}, "x:1 y:2 x:3 z:n"},
		"overwrite if it exists":     {config.HeaderValueOption{Name: "y", Value: "n", Action: existing}, "x:1 y:n x:3"},
		"overwrite only if it does":  {config.HeaderValueOption{Name: "z", Value: "n", Action: existing}, "x:1 y:2 x:3"},
		"an empty value adds none":   {config.HeaderValueOption{Name: "y", Value: "", Action: overwrite}, "x:1 y:2 x:3"},
		"an empty format adds none":  {config.HeaderValueOption{Name: "y", Value: "%NONE%", Action: overwrite}, "x:1 y:2 x:3"},
		"an empty value that counts": {config.HeaderValueOption{Name: "y", Value: "%NONE%", Action: overwrite, KeepEmpty: true}, "x:1 y: x:3"},
		"line ends do not get in":    {config.HeaderValueOption{Name: "y", Value: "%EVIL%", Action: overwrite}, "x:1 y:a  b: c x:3"},
	} {
		t.Run(name, func(t *testing.T) {
			adds, err := edit.CompileAdds([]config.HeaderValueOption{c.option}, format)
			if err != nil {
				t.Fatal(err)
			}
			h := message.NewHead()
			h.Fields = message.Fields{{Name: "x", Value: "1"}, {Name: "y", Value: "2"}, {Name: "x", Value: "3"}}
			adds[0].Apply(h, nil)
			if diff := cmp.Diff(c.want, shown(h.Fields)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func shown(f message.Fields) string {
	var out []string
	for _, x := range f {
		out = append(out, x.Name+":"+x.Value)
	}
	return strings.Join(out, " ")
}

func TestPseudoHeadersAreSetInTheHead(t *testing.T) {
	for name, c := range map[string]struct {
		name   string
		action config.HeaderAction
		path   string
		host   string
	}{
		"a path is overwritten":         {":path", config.HeaderOverwrite, "/n", "h"},
		"a path is appended to":         {":path", config.HeaderAppend, "/p,/n", "h"},
		"a path that is there is left":  {":path", config.HeaderAddIfAbsent, "/p", "h"},
		"host is the authority":         {"host", config.HeaderOverwrite, "/p", "/n"},
		"and not a field of a response": {":authority", config.HeaderOverwriteIfExists, "/p", "/n"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := edit.Compile([]config.HeaderMutate{{Append: &config.HeaderValueOption{Name: c.name, Value: "/n", Action: c.action}}}, format)
			if err != nil {
				t.Fatal(err)
			}
			h := message.NewHead()
			h.Method, h.Path, h.Authority = "GET", "/p", "h"
			m.Apply(h, nil)
			if h.Path != c.path || h.Authority != c.host || len(h.Fields) != 0 {
				t.Errorf("path %q, authority %q, fields %v; want %q, %q and none", h.Path, h.Authority, h.Fields, c.path, c.host)
			}
		})
	}
}

func TestMutationsRunInTheirOrder(t *testing.T) {
	m, err := edit.Compile([]config.HeaderMutate{
		{Append: &config.HeaderValueOption{Name: "x-a", Value: "1"}},
		{RemoveOnMatch: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "x-"}},
		{Append: &config.HeaderValueOption{Name: "x-b", Value: "2"}},
		{Remove: "Y"},
	}, format)
	if err != nil {
		t.Fatal(err)
	}
	f := message.Fields{{Name: "y", Value: "0"}, {Name: "x-c", Value: "0"}, {Name: "k", Value: "0"}}
	m.ApplyFields(&f, nil)
	if got := shown(f); got != "k:0 x-b:2" {
		t.Errorf("fields %q, want k:0 x-b:2", got)
	}
}

func TestMistakesAreRefusedWithTheirPlace(t *testing.T) {
	for want, m := range map[string]config.HeaderMutate{
		"[1]: neither append":       {},
		`[1].append "": the head`:   {Append: &config.HeaderValueOption{}},
		"9 is not an action":        {Append: &config.HeaderValueOption{Name: "x", Action: 9}},
		`[1].append "x": value: no`: {Append: &config.HeaderValueOption{Name: "x", Value: "%BAD%"}},
	} {
		_, err := edit.Compile([]config.HeaderMutate{{Remove: "a"}, m}, func(string, bool) (func(*flow.Info) string, error) {
			return nil, errNo
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want one with %q", err, want)
		}
	}
}

type refusal string

func (r refusal) Error() string { return string(r) }

const errNo = refusal("no such operator")
