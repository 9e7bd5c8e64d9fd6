// Package extauthz is envoy.filters.http.ext_authz: somebody else says whether
// a request may go on, over gRPC (envoy.service.auth.v3) or HTTP. Details, flags
// and stats are Envoy's.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/rbac"
	"outrider/proxy/stats"
)

const (
	metadataNamespace = "envoy.filters.http.ext_authz"
	// failOpenHeader tells the upstream that nobody was asked.
	failOpenHeader = "x-envoy-auth-failure-mode-allowed"
	// partialHeader tells the service whether it got all of the body.
	partialHeader = "x-envoy-auth-partial-body"
)

// New makes the filter of a *config.ExtAuthz.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	c, ok := cfg.Config.(*config.ExtAuthz)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of ext_authz", cfg.Config)
	}
	if c.EmitStats {
		return nil, errors.New("emit_filter_state_stats is not supported: the filter state has no fields")
	}
	f := &factory{cfg: c, d: d, counters: newCounters(d, c.StatPrefix), labels: labelsOf(d.Node, c.BootstrapLabelsKey)}
	switch {
	case c.GRPC != nil:
		conn, err := d.Upstream.GRPC(c.GRPC)
		if err != nil {
			return nil, fmt.Errorf("grpc_service: %w", err)
		}
		f.service = &grpcService{cfg: c.GRPC, conn: conn}
	case c.HTTP != nil:
		f.service = &httpService{cfg: c.HTTP, filter: c, client: d.Upstream.HTTP(c.HTTP.Cluster)}
	default:
		return nil, errors.New("there is no service to ask")
	}
	return f, nil
}

// service is whom we ask.
type service interface {
	// check asks; it blocks until the answer, the end of ctx, or its timeout.
	// An error is that there is no answer.
	check(ctx context.Context, q *question) (*verdict, error)
}

// verdict is an answer.
type verdict struct {
	allowed bool
	status  int // of a denial
	body    string
	// set, add and appended change the request, or are of the denial; appended
	// is only joined to what is there.
	set, add, appended message.Fields
	remove             []string
	querySet           [][2]string
	queryRemove        []string
	response           []responseField
	metadata           *structpb.Struct
}

// responseField is for the response to a request that was allowed.
type responseField struct {
	message.Field
	action config.HeaderAction
}

type factory struct {
	cfg      *config.ExtAuthz
	d        filter.Deps
	service  service
	counters counters
	labels   map[string]string
}

// counters are in the connection manager's scope.
type counters struct{ ok, denied, failed, disabled, failOpen, invalid *stats.Counter }

func newCounters(d filter.Deps, prefix string) counters {
	s := d.Scope.Scope("ext_authz")
	if prefix = strings.Trim(prefix, "."); prefix != "" {
		s = s.Scope(prefix)
	}
	for _, name := range []string{ // Envoy has them; here nothing counts in them
		"filter_state_name_collision", "ignored_dynamic_metadata", "omitted_response_headers", "request_header_limits_reached",
		"response_header_limits_reached", "shadow_denied", "shadow_error",
	} {
		s.Counter(name)
	}
	return counters{
		ok: s.Counter("ok"), denied: s.Counter("denied"), failed: s.Counter("error"), disabled: s.Counter("disabled"),
		failOpen: s.Counter("failure_mode_allowed"), invalid: s.Counter("invalid"),
	}
}

// New is the filter of a request.
func (f *factory) New(s filter.Stream) filter.Filter {
	a := &authz{f: f, s: s, body: f.cfg.WithBody}
	for _, o := range s.Overrides() {
		own, ok := o.Config.(*config.ExtAuthzOverride)
		if !ok || own == nil {
			if o.Config != nil {
				a.err = fmt.Errorf("a route has %T for ext_authz", o.Config)
			}
			continue
		}
		a.off = own.Disabled
		for k, v := range own.Extensions {
			if a.extensions == nil {
				a.extensions = map[string]string{}
			}
			a.extensions[k] = v
		}
		switch {
		case own.NoBody:
			a.body = nil
		case own.WithBody != nil:
			a.body = own.WithBody
		}
	}
	return a
}

// authz is the filter of one request.
type authz struct {
	filter.Pass
	f          *factory
	s          filter.Stream
	err        error
	off        bool
	body       *config.ExtAuthzBody
	extensions map[string]string

	gathering, asked, through bool
	started                   time.Time
	response                  []responseField
}

// RequestHead asks, unless the body has to come first.
func (a *authz) RequestHead(h *message.Head, end bool) filter.Action {
	if a.err != nil {
		return filter.Misconfigured(a.s, a.err)
	}
	if a.off {
		a.through = true
		return filter.Continue
	}
	if !a.enabled() {
		a.f.counters.disabled.Inc()
		if a.f.cfg.DenyAtDisable {
			a.reply(filter.Reply{Status: a.f.cfg.StatusOnError, Details: "ext_authz_error"})
			return filter.Stop
		}
		a.through = true
		return filter.Continue
	}
	if a.body != nil && !end && h.Method != http.MethodConnect && !h.Fields.Has("upgrade") {
		a.gathering = true
		if l, ok := a.s.(filter.RequestLimiter); ok && !a.body.AllowPartial {
			l.LimitRequest(int(a.body.MaxBytes))
		}
		return filter.Stop
	}
	a.ask(h, nil)
	return filter.StopAll
}

// enabled is filter_enabled and filter_enabled_metadata.
func (a *authz) enabled() bool {
	if p := a.f.cfg.EnabledPPM; p != nil && !a.s.PPM(*p) {
		return false
	}
	m := a.f.cfg.EnabledMetadata
	return m == nil || rbac.MatchMetadata(m, a.s.Info())
}

// RequestData gathers the body, and asks when there is enough of it.
func (a *authz) RequestData(p []byte, end bool) ([]byte, filter.Action) {
	if a.through || !a.gathering {
		return p, filter.Continue
	}
	have := len(a.s.HeldRequest()) + len(p)
	full := have >= int(a.body.MaxBytes)
	switch {
	case full && !a.body.AllowPartial && have > int(a.body.MaxBytes):
		return p, filter.Stop // the limit answers it: 413
	case !end && (!full || !a.body.AllowPartial):
		return p, filter.Stop
	}
	a.gathering = false
	body := append(append(make([]byte, 0, have), a.s.HeldRequest()...), p...)
	a.ask(a.s.Request(), &bodyPart{bytes: body[:min(have, int(a.body.MaxBytes))], partial: !end || have > int(a.body.MaxBytes)})
	return p, filter.StopAll
}

// RequestTrailers end the body.
func (a *authz) RequestTrailers(*message.Fields) filter.Action {
	if a.through || !a.gathering {
		return filter.Continue
	}
	a.gathering = false
	held := append([]byte(nil), a.s.HeldRequest()...)
	a.ask(a.s.Request(), &bodyPart{bytes: held[:min(len(held), int(a.body.MaxBytes))], partial: len(held) > int(a.body.MaxBytes)})
	return filter.StopAll
}

// ask lets the service decide, and then goes on or answers.
func (a *authz) ask(h *message.Head, body *bodyPart) {
	q := a.question(h, body)
	a.started = time.Now()
	a.s.Async(func(ctx context.Context) func() {
		v, err := a.f.service.check(ctx, q)
		return func() {
			if a.decide(h, v, err) {
				a.through = true
				a.s.ResumeRequest()
			}
		}
	})
}

// decide reports whether the request goes on.
func (a *authz) decide(h *message.Head, v *verdict, err error) bool {
	c := &a.f.counters
	switch {
	case err != nil:
		c.failed.Inc()
		a.onCluster("error")
		a.s.Log().Debug("the authorization service has not answered", "error", err)
		if !a.f.cfg.FailOpen {
			a.reply(filter.Reply{Status: a.f.cfg.StatusOnError, Details: "ext_authz_error"})
			return false
		}
		c.failOpen.Inc()
		a.onCluster("failure_mode_allowed")
		if a.f.cfg.FailOpenHeader {
			h.Fields.Set(failOpenHeader, "true")
		}
		return true
	case !v.valid():
		c.invalid.Inc()
		a.s.Log().Warn("the authorization service answers with header fields that are not valid")
		a.reply(filter.Reply{Status: http.StatusInternalServerError, Details: "ext_authz_invalid"})
		return false
	}
	a.store(v)
	if !v.allowed {
		c.denied.Inc()
		a.onCluster("denied")
		a.reply(filter.Reply{Status: v.status, Body: v.body, Fields: v.denial(), Details: "ext_authz_denied"})
		return false
	}
	if err := v.change(h, a.f.cfg.DecoderHeaderMutation); err != nil {
		c.invalid.Inc()
		a.s.Log().Warn("a change of the authorization service is refused", "error", err)
		a.reply(filter.Reply{Status: http.StatusInternalServerError, Details: "ext_authz_invalid"})
		return false
	}
	if a.f.cfg.ClearRouteCache && v.changes() {
		a.s.ClearRoute()
	}
	a.response = v.response
	c.ok.Inc()
	a.onCluster("ok")
	return true
}

// store puts what the service says of the request into its metadata, with the
// milliseconds that it took.
func (a *authz) store(v *verdict) {
	if len(v.metadata.GetFields()) == 0 {
		return
	}
	for k, value := range v.metadata.GetFields() {
		a.s.Info().SetMetadata(metadataNamespace, k, value)
	}
	a.s.Info().SetMetadata(metadataNamespace, "ext_authz_duration", structpb.NewNumberValue(float64(time.Since(a.started).Milliseconds())))
}

func (a *authz) reply(r filter.Reply) {
	r.Flags = flow.UnauthorizedExternalService
	a.s.Reply(r)
}

// onCluster counts at the cluster where the request would go.
func (a *authz) onCluster(name string) {
	cluster := a.s.Cluster()
	if cluster == "" || a.f.d.Clusters.Get(cluster) == nil {
		return
	}
	scope := a.f.d.Stats.Scope("cluster").Tagged("envoy_cluster_name", cluster).Scope("ext_authz")
	if a.f.cfg.StatPrefix != "" {
		scope = scope.Scope(strings.Trim(a.f.cfg.StatPrefix, "."))
	}
	scope.Counter(name).Inc()
}

// ResponseHead adds what the service wants in the response.
func (a *authz) ResponseHead(h *message.Head, _ bool) filter.Action {
	for _, f := range a.response {
		there := h.Fields.Has(f.Name)
		switch f.action {
		case config.HeaderAddIfAbsent:
			if !there {
				h.Fields.Add(f.Name, f.Value)
			}
		case config.HeaderOverwriteIfExists:
			if there {
				h.Fields.Set(f.Name, f.Value)
			}
		case config.HeaderOverwrite:
			h.Fields.Set(f.Name, f.Value)
		default:
			h.Fields.Add(f.Name, f.Value)
		}
	}
	return filter.Continue
}

// Check is filter.Checker.
func (f *factory) Check(o *config.FilterOverride) error {
	if _, ok := o.Config.(*config.ExtAuthzOverride); !ok && o.Config != nil {
		return fmt.Errorf("%T is not of ext_authz", o.Config)
	}
	return nil
}
