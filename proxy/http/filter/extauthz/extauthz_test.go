package extauthz_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/extauthz"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// answers is a gRPC channel to a service that always answers the same.
type answers struct {
	answer *authv3.CheckResponse
	err    error
	asked  *authv3.CheckRequest
}

func (a *answers) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if method != "/envoy.service.auth.v3.Authorization/Check" {
		return fmt.Errorf("method %s", method)
	}
	a.asked = proto.CloneOf(args.(*authv3.CheckRequest))
	if a.err != nil {
		return a.err
	}
	proto.Merge(reply.(proto.Message), a.answer)
	return nil
}

func (*answers) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

func overGRPC(t *testing.T, cfg *config.ExtAuthz, a *answers) (filter.Factory, *stats.Registry) {
	t.Helper()
	if cfg.StatusOnError == 0 {
		cfg.StatusOnError = 403
	}
	cfg.GRPC = &config.GRPCService{Cluster: "authz", Timeout: time.Second}
	r := stats.New()
	d := filtertest.Deps(r)
	d.Node = &config.Node{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		"labels": structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"app": structpb.NewStringValue("web"), "n": structpb.NewNumberValue(1)}}),
	}}}
	d.Upstream = filtertest.Upstream{Channels: func(*config.GRPCService) (grpc.ClientConnInterface, error) { return a, nil }}
	f, err := extauthz.New(&config.HTTPFilter{Config: cfg}, d)
	if err != nil {
		t.Fatal(err)
	}
	return f, r
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func appended(name, value string) *corev3.HeaderValueOption {
	o := option(name, value)
	o.Append = wrapperspb.Bool(true)
	return o
}

func withAction(o *corev3.HeaderValueOption, a corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	o.AppendAction = a
	return o
}

func okResponse(ok *authv3.OkHttpResponse) *authv3.CheckResponse {
	return &authv3.CheckResponse{Status: &statuspb.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}
}

func denied(d *authv3.DeniedHttpResponse) *authv3.CheckResponse {
	return &authv3.CheckResponse{Status: &statuspb.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: d}}
}

func counted(r *stats.Registry) string {
	var out []string
	for _, name := range []string{"ok", "denied", "error", "disabled", "failure_mode_allowed", "invalid"} {
		if n := filtertest.Scope(r).Scope("ext_authz").Counter(name).Value(); n > 0 {
			out = append(out, fmt.Sprintf("%s=%d", name, n))
		}
	}
	return strings.Join(out, " ")
}

func TestAnswersOfTheGRPCServiceDecide(t *testing.T) {
	zero := uint32(0)
	for claim, c := range map[string]struct {
		cfg      config.ExtAuthz
		answer   *authv3.CheckResponse
		err      error
		status   int // of our answer, 0 for none
		body     string
		details  string
		counters string
		want     []string // fields of the request or of our answer
	}{
		"allowed":                         {answer: okResponse(nil), counters: "ok=1", want: []string{"x-a=1"}},
		"denied":                          {answer: denied(nil), status: 403, details: "ext_authz_denied", counters: "denied=1"},
		"no answer":                       {err: errors.New("no"), status: 403, details: "ext_authz_error", counters: "error=1"},
		"no answer, with a status for it": {cfg: config.ExtAuthz{StatusOnError: 503}, err: errors.New("no"), status: 503, details: "ext_authz_error", counters: "error=1"},
		"no answer, but that is allowed": {cfg: config.ExtAuthz{FailOpen: true, FailOpenHeader: true}, err: errors.New("no"),
			counters: "error=1 failure_mode_allowed=1", want: []string{"x-a=1", "x-envoy-auth-failure-mode-allowed=true"}},
		"disabled":                {cfg: config.ExtAuthz{EnabledPPM: &zero}, counters: "disabled=1", want: []string{"x-a=1"}},
		"disabled, and so denied": {cfg: config.ExtAuthz{EnabledPPM: &zero, DenyAtDisable: true}, status: 403, details: "ext_authz_error", counters: "disabled=1"},
		"a denial with all of it": {
			answer: denied(&authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 401}, Body: "who?", Headers: []*corev3.HeaderValueOption{
				option("WWW-Authenticate", "x"), appended("x-b", "1"), option("x-a", "1"), option("x-a", "2"), option("content-length", "9"),
			}}),
			status: 401, body: "who?", details: "ext_authz_denied", counters: "denied=1", want: []string{"www-authenticate=x", "x-a=1", "x-a=2"},
		},
		"fields are set, joined to what is there, removed": {
			answer: okResponse(&authv3.OkHttpResponse{
				Headers:         []*corev3.HeaderValueOption{option("X-A", "2"), option("x-new", "n"), appended("x-j", "2"), appended("x-none", "1")},
				HeadersToRemove: []string{"X-R", "host", ":path"},
			}),
			counters: "ok=1", want: []string{"x-a=2", "x-j=1,2", "x-new=n"},
		},
		"a field that cannot be written": {answer: okResponse(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x-b", "1\r\nx: y")}}),
			status: 500, details: "ext_authz_invalid", counters: "invalid=1"},
		"a name that cannot be written in a denial": {answer: denied(&authv3.DeniedHttpResponse{Headers: []*corev3.HeaderValueOption{option("x b", "1")}}),
			status: 500, details: "ext_authz_invalid", counters: "invalid=1"},
		"what the rules do not allow is left out": {
			cfg: config.ExtAuthz{DecoderHeaderMutation: &config.HeaderMutationRules{Disallow: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "x-n"}}},
			answer: okResponse(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{
				option("x-new", "1"), option("x-envoy-b", "1"), option(":method", "PUT"), option("x-a", "2"),
			}}),
			counters: "ok=1", want: []string{"x-a=2"},
		},
		"what the rules do not allow is an error": {
			cfg:    config.ExtAuthz{DecoderHeaderMutation: &config.HeaderMutationRules{DisallowAll: true, DisallowIsError: true}},
			answer: okResponse(&authv3.OkHttpResponse{HeadersToRemove: []string{"x-a"}}),
			status: 500, details: "ext_authz_invalid", counters: "invalid=1",
		},
		"a contradiction is no answer": {answer: &authv3.CheckResponse{Status: &statuspb.Status{}, HttpResponse: denied(nil).HttpResponse},
			status: 403, details: "ext_authz_error", counters: "error=1"},
	} {
		t.Run(claim, func(t *testing.T) {
			a := &answers{answer: c.answer, err: c.err}
			f, r := overGRPC(t, &c.cfg, a)
			s := filtertest.New(t).Start(f)
			h := filtertest.Request("GET", "/p", "x-a", "1")
			if strings.HasPrefix(claim, "fields") {
				h.Fields.Add("x-j", "1")
				h.Fields.Add("x-r", "1")
			}
			s.RequestHead(h, true)
			s.Wait()
			if got := counted(r); got != c.counters {
				t.Errorf("counted %q, want %q", got, c.counters)
			}
			if c.status == 0 {
				if s.Replied != nil || !s.Up.End || s.Up.Head.Method != "GET" {
					t.Fatalf("did not go on as it was: %+v", s.Replied)
				}
				if diff := cmp.Diff(c.want, pairs(s.Up.Head.Fields)); diff != "" {
					t.Error(diff)
				}
				return
			}
			if s.Replied == nil {
				t.Fatal("went on")
			}
			got := s.Replied
			if got.Status != c.status || got.Body != c.body || got.Details != c.details || got.Flags != flow.UnauthorizedExternalService {
				t.Errorf("got %+v", got)
			}
			if diff := cmp.Diff(c.want, pairs(got.Fields)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func pairs(f message.Fields) []string {
	var out []string
	for _, x := range f {
		out = append(out, x.Name+"="+x.Value)
	}
	slices.Sort(out)
	return out
}

func TestAnAllowedRequestChangesAndItsResponseToo(t *testing.T) {
	answer := okResponse(&authv3.OkHttpResponse{
		QueryParametersToSet:    []*corev3.QueryParameter{{Key: "a", Value: "b&c"}, {Key: "new", Value: ""}},
		QueryParametersToRemove: []string{"gone"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			option("x-add", "2"), withAction(option("x-absent", "2"), corev3.HeaderValueOption_ADD_IF_ABSENT),
			withAction(option("x-over", "2"), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			withAction(option("x-if", "2"), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
		},
	})
	answer.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{"who": structpb.NewStringValue("me")}}
	f, _ := overGRPC(t, &config.ExtAuthz{ClearRouteCache: true}, &answers{answer: answer})
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("GET", "/p?x=%41&gone=1&a=old&%67one=2"), true)
	s.Wait()
	if got, want := s.Up.Head.Path, "/p?x=%41&a=b%26c&new="; got != want || s.Cleared != 1 {
		t.Errorf("got path %s, route cleared %d times, want %s, once", got, s.Cleared, want)
	}
	if got := s.StreamInfo.DynamicMetadata["envoy.filters.http.ext_authz"].AsMap(); got["who"] != "me" || got["ext_authz_duration"] == nil {
		t.Errorf("metadata %v", got)
	}
	s.ResponseHead(filtertest.Response(200, "x-add", "1", "x-absent", "1", "x-over", "1"), true)
	if diff := cmp.Diff([]string{"x-absent=1", "x-add=1", "x-add=2", "x-over=2"}, pairs(s.Down.Head.Fields)); diff != "" {
		t.Error(diff)
	}
}

func TestTheServiceIsToldOfTheRequest(t *testing.T) {
	a := &answers{answer: okResponse(nil)}
	f, _ := overGRPC(t, &config.ExtAuthz{
		DisallowedHeaders: []certs.StringMatcher{{Pattern: "cookie"}}, MetadataContext: []string{"ns", "none"}, BootstrapLabelsKey: "labels",
	}, a)
	s := filtertest.New(t)
	s.Overriding = []*config.FilterOverride{
		{Config: &config.ExtAuthzOverride{Extensions: map[string]string{"a": "1", "b": "1"}}},
		{Config: &config.ExtAuthzOverride{Extensions: map[string]string{"b": "2"}}},
	}
	s.StreamInfo.SetMetadata("ns", "k", structpb.NewStringValue("v"))
	s.StreamInfo.SetMetadata("other", "k", structpb.NewStringValue("v"))
	s.Start(f)
	s.RequestHead(filtertest.Request("GET", "/p?q", "x-two", "1", "x-two", "2", "cookie", "c", "x-bad", "a\xffb", "x-envoy-downstream-service-cluster", "front"), true)
	s.Wait()
	got := a.asked.GetAttributes()
	http := got.GetRequest().GetHttp()
	want := map[string]string{":authority": "host", ":path": "/p?q", ":method": "GET", ":scheme": "http", "x-two": "1,2", "x-bad": "a!b", "x-envoy-downstream-service-cluster": "front"}
	if diff := cmp.Diff(want, http.GetHeaders()); diff != "" {
		t.Error(diff)
	}
	if http.GetMethod() != "GET" || http.GetPath() != "/p?q" || http.GetHost() != "host" || http.GetProtocol() != "HTTP/1.1" || http.GetScheme() != "http" {
		t.Errorf("got %v", http)
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, got.GetContextExtensions()); diff != "" {
		t.Error(diff)
	}
	if m := got.GetMetadataContext().GetFilterMetadata(); len(m) != 1 || m["ns"].AsMap()["k"] != "v" {
		t.Errorf("metadata %v", m)
	}
	if got.GetSource().GetService() != "front" || !cmp.Equal(got.GetDestination().GetLabels(), map[string]string{"app": "web"}) {
		t.Errorf("got %v", got)
	}
}

func TestTheBodyIsGatheredAsFarAsItIsWanted(t *testing.T) {
	for claim, c := range map[string]struct {
		body    config.ExtAuthzBody
		parts   []string
		want    string
		partial string
		status  int
	}{
		"all of it":                  {config.ExtAuthzBody{MaxBytes: 10}, []string{"abc", "def"}, "abcdef", "false", 0},
		"all that is allowed":        {config.ExtAuthzBody{MaxBytes: 6}, []string{"abc", "def"}, "abcdef", "false", 0},
		"more than is allowed":       {config.ExtAuthzBody{MaxBytes: 5}, []string{"abc", "def"}, "", "", 413},
		"the beginning":              {config.ExtAuthzBody{MaxBytes: 5, AllowPartial: true}, []string{"abc", "def", "ghi"}, "abcde", "true", 0},
		"the beginning, to the byte": {config.ExtAuthzBody{MaxBytes: 3, AllowPartial: true}, []string{"abc", "def"}, "abc", "true", 0},
		"bytes that are no text":     {config.ExtAuthzBody{MaxBytes: 5}, []string{"a\xff"}, "a!", "false", 0},
		"as bytes":                   {config.ExtAuthzBody{MaxBytes: 5, AsBytes: true}, []string{"a\xff"}, "a\xff", "false", 0},
	} {
		t.Run(claim, func(t *testing.T) {
			a := &answers{answer: okResponse(nil)}
			f, _ := overGRPC(t, &config.ExtAuthz{WithBody: &c.body}, a)
			s := filtertest.New(t).Start(f)
			s.RequestHead(filtertest.Request("POST", "/"), false)
			if s.Up.Head != nil {
				t.Fatal("the head went on before the answer")
			}
			for i, p := range c.parts {
				s.RequestData(p, i == len(c.parts)-1)
			}
			s.Wait()
			if c.status != 0 {
				if s.Replied == nil || s.Replied.Status != c.status || a.asked != nil {
					t.Errorf("got %+v", s.Replied)
				}
				return
			}
			http := a.asked.GetAttributes().GetRequest().GetHttp()
			if got := http.GetBody() + string(http.GetRawBody()); got != c.want || http.GetHeaders()["x-envoy-auth-partial-body"] != c.partial {
				t.Errorf("got %q, partial %s", got, http.GetHeaders()["x-envoy-auth-partial-body"])
			}
			if got, want := string(s.Up.Body), strings.Join(c.parts, ""); got != want || !s.Up.End || s.Up.Head.Fields.Has("x-envoy-auth-partial-body") {
				t.Errorf("%q went on, want %q", got, want)
			}
		})
	}
}

func TestRoutesChooseForThemselves(t *testing.T) {
	for claim, c := range map[string]struct {
		overrides []any
		asked     bool
		held      bool
		status    int
	}{
		"none":            {nil, true, true, 0},
		"disabled":        {[]any{&config.ExtAuthzOverride{Disabled: true}}, false, false, 0},
		"enabled again":   {[]any{&config.ExtAuthzOverride{Disabled: true}, &config.ExtAuthzOverride{}}, true, true, 0},
		"without body":    {[]any{&config.ExtAuthzOverride{NoBody: true}}, true, false, 0},
		"of another type": {[]any{&config.CORSPolicy{}}, false, false, 500},
	} {
		a := &answers{answer: okResponse(nil)}
		f, _ := overGRPC(t, &config.ExtAuthz{WithBody: &config.ExtAuthzBody{MaxBytes: 9}}, a)
		s := filtertest.New(t)
		for _, o := range c.overrides {
			s.Overriding = append(s.Overriding, &config.FilterOverride{Config: o})
		}
		s.Start(f)
		s.RequestHead(filtertest.Request("POST", "/"), false)
		s.Wait()
		if held := s.Up.Head == nil && s.Replied == nil; held != c.held {
			t.Errorf("%s: held for the body: %t", claim, held)
		}
		s.RequestData("x", true)
		s.Wait()
		status := 0
		if s.Replied != nil {
			status = s.Replied.Status
		}
		if (a.asked != nil) != c.asked || status != c.status || status == 0 && string(s.Up.Body) != "x" {
			t.Errorf("%s: asked %t, status %d, body %q", claim, a.asked != nil, status, s.Up.Body)
		}
	}
}
