package filtertest_test

import (
	"context"
	"testing"
	"time"

	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/message"
)

// scripted is a filter that does what the test says.
type scripted struct {
	filter.Pass
	head, data, trailers filter.Action
	seen                 string // the data that it was called with
	response             func(h *message.Head) filter.Action
	ended                *int
}

func (f *scripted) RequestHead(*message.Head, bool) filter.Action { return f.head }
func (f *scripted) RequestData(p []byte, _ bool) ([]byte, filter.Action) {
	f.seen += string(p)
	return p, f.data
}
func (f *scripted) RequestTrailers(*message.Fields) filter.Action { return f.trailers }
func (f *scripted) ResponseHead(h *message.Head, _ bool) filter.Action {
	if f.response == nil {
		return filter.Continue
	}
	return f.response(h)
}
func (f *scripted) End() {
	if f.ended != nil {
		*f.ended++
	}
}

func start(t *testing.T, f *scripted) *filtertest.Stream {
	t.Helper()
	return filtertest.New(t).Start(filter.FactoryFunc(func(filter.Stream) filter.Filter { return f }))
}

func TestStopHoldsUntilTheFilterContinues(t *testing.T) {
	f := &scripted{head: filter.Stop, data: filter.Stop}
	s := start(t, f)
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("one ", false)
	if s.Up.Head != nil || string(s.HeldRequest()) != "one " {
		t.Fatalf("passed %v, held %q, want nothing and the data", s.Up, s.HeldRequest())
	}
	f.data = filter.Continue
	s.RequestData("two", true)
	if s.Up.Head == nil || string(s.Up.Body) != "one two" || !s.Up.End {
		t.Errorf("passed %+v, want all of the request", s.Up)
	}
}

func TestTrailersReleaseWhatIsHeld(t *testing.T) {
	s := start(t, &scripted{head: filter.Stop, data: filter.Stop})
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("body", false)
	s.RequestTrailers("a", "b")
	if s.Up.Head == nil || string(s.Up.Body) != "body" || s.Up.Trailers.Value("a") != "b" {
		t.Errorf("passed %+v, want all of the request", s.Up)
	}
}

func TestStopAllKeepsTheFilterFromWhatFollowsUntilItResumes(t *testing.T) {
	f := &scripted{head: filter.StopAll, data: filter.Continue}
	s := start(t, f)
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("body", true)
	if s.Up.Head != nil || f.seen != "" {
		t.Fatalf("the head has passed, or the filter was called with %q", f.seen)
	}
	s.ResumeRequest()
	if s.Up.Head == nil || string(s.Up.Body) != "body" || !s.Up.End || f.seen != "body" {
		t.Errorf("passed %+v, the filter has seen %q; want all of the request", s.Up, f.seen)
	}
}

func TestTooMuchHeldIsRefused(t *testing.T) {
	s := start(t, &scripted{head: filter.Stop, data: filter.Stop})
	s.Limit = 3
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.RequestData("body", true)
	if s.Replied == nil || s.Replied.Status != 413 {
		t.Errorf("replied %+v, want 413", s.Replied)
	}
}

func TestTheReplyPassesTheFiltersOwnResponseMethods(t *testing.T) {
	s := start(t, &scripted{response: func(h *message.Head) filter.Action {
		h.Fields.Add("seen", "yes")
		return filter.Continue
	}})
	s.RequestHead(filtertest.Request("GET", "/"), true)
	s.Reply(filter.Reply{Status: 403, Body: "no", Details: "d"})
	if s.Down.Head.Status != 403 || s.Down.Head.Value("seen") != "yes" || string(s.Down.Body) != "no" || s.Info().HTTP.Details != "d" {
		t.Errorf("passed %+v", s.Down)
	}
	s.Reply(filter.Reply{Status: 500})
	if !s.Reset {
		t.Error("a reply after the response did not reset")
	}
}

func TestAFilterThatRefusesItsOwnAnswerIsLeftOut(t *testing.T) {
	var s *filtertest.Stream
	s = start(t, &scripted{response: func(*message.Head) filter.Action {
		s.Reply(filter.Reply{Status: 500, Body: "second"})
		return filter.Stop
	}})
	s.RequestHead(filtertest.Request("GET", "/"), true)
	s.Reply(filter.Reply{Status: 403, Body: "first"})
	if s.Down.Head == nil || s.Down.Head.Status != 500 || string(s.Down.Body) != "second" || s.Replies != 2 {
		t.Errorf("passed %+v after %d replies, want the second", s.Down, s.Replies)
	}
}

func TestTimersRunInTheOrderOfTime(t *testing.T) {
	s := start(t, &scripted{})
	var got []int
	s.After(2*time.Second, func() { got = append(got, 2) })
	s.After(time.Second, func() {
		got = append(got, 1)
		s.After(500*time.Millisecond, func() { got = append(got, 15) })
	})
	stop := s.After(time.Second, func() { got = append(got, 0) })
	stop()
	s.Advance(1999 * time.Millisecond)
	if len(got) != 2 || got[0] != 1 || got[1] != 15 {
		t.Errorf("ran %v, want 1 15", got)
	}
	if n, next := s.Timers(); n != 1 || next != time.Millisecond {
		t.Errorf("%d timers, the next in %s; want 1 in 1ms", n, next)
	}
}

func TestAsyncEndsWithTheRequest(t *testing.T) {
	var ended int
	s := start(t, &scripted{ended: &ended})
	ran := false
	s.Async(func(context.Context) func() { return func() { ran = true } })
	s.Wait()
	if !ran {
		t.Error("what work returned did not run")
	}
	s.Async(func(ctx context.Context) func() {
		<-ctx.Done()
		return func() { t.Error("it ran after the end") }
	})
	s.Finish()
	s.Wait()
	s.Finish()
	if ended != 1 {
		t.Errorf("End was called %d times, want once", ended)
	}
}
