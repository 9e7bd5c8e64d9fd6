package edit_test

import (
	"fmt"
	"slices"
	"testing"

	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
)

// Values are those before any of the level's fields is written; more of them
// than fit one word are all there.
func TestOpsOfALevelDoNotSeeEachOther(t *testing.T) {
	add := []config.HeaderValueOption{{Name: "a", Value: "%REQ(b)%"}, {Name: "b", Value: "%REQ(a)%", Action: config.HeaderOverwrite}}
	for i := range 100 {
		add = append(add, config.HeaderValueOption{Name: fmt.Sprintf("n%d", i), Value: "%REQ(gone)%x"})
	}
	ops, err := edit.CompileOps(add, []string{"Gone"}, accesslog.Formatter)
	if err != nil {
		t.Fatal(err)
	}
	h := &message.Head{Method: "GET", Fields: message.Fields{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "gone", Value: "y"}}}
	ops.Apply(h, &flow.Info{HTTP: &flow.HTTP{Request: h}})
	want := message.Fields{{Name: "a", Value: "1"}, {Name: "b", Value: "1"}, {Name: "a", Value: "2"}}
	for i := range 100 {
		want.Add(fmt.Sprintf("n%d", i), "x")
	}
	if !slices.Equal(h.Fields, want) {
		t.Errorf("the fields are %v, want %v", h.Fields, want)
	}
}

func TestOpsJoinFieldsThatAreOne(t *testing.T) {
	ops, err := edit.CompileOps([]config.HeaderValueOption{{Name: "X-Forwarded-For", Value: "b"}, {Name: "x", Value: "b"}}, nil, accesslog.Formatter)
	if err != nil {
		t.Fatal(err)
	}
	h := &message.Head{Method: "GET", Fields: message.Fields{{Name: "x-forwarded-for", Value: "a"}, {Name: "x", Value: "a"}}}
	ops.Apply(h, &flow.Info{})
	want := message.Fields{{Name: "x-forwarded-for", Value: "a,b"}, {Name: "x", Value: "a"}, {Name: "x", Value: "b"}}
	if !slices.Equal(h.Fields, want) {
		t.Errorf("the fields are %v, want %v", h.Fields, want)
	}
}
