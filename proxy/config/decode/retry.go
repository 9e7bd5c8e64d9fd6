package decode

import (
	"fmt"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	canaryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/omit_canary_hosts/v3"
	hostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"

	"outrider/proxy/config"
)

// Defaults of RetryPolicy (route_components.proto).
const (
	defaultRetryBase      = 25 * time.Millisecond
	minRetryBase          = time.Millisecond // below it Envoy takes it
	retryMaxFactor        = 10               // max_interval, of base_interval
	defaultRateLimitedMax = 5 * time.Minute
)

// retryConditions are what retry_on may name: x-envoy-retry-on's and
// x-envoy-retry-grpc-on's words.
const retryConditions = "5xx gateway-error reset reset-before-request connect-failure envoy-ratelimited retriable-4xx " +
	"refused-stream retriable-status-codes retriable-headers http3-post-connect-failure " +
	"cancelled deadline-exceeded internal resource-exhausted unavailable"

func (d *decoder) retryPolicy(r *routev3.RetryPolicy, place at) *config.RetryPolicy {
	out := &config.RetryPolicy{
		PerTry:           duration(r.GetPerTryTimeout(), 0, place.in("per_try_timeout")),
		PerTryIdle:       duration(r.GetPerTryIdleTimeout(), 0, place.in("per_try_idle_timeout")),
		StatusCodes:      r.GetRetriableStatusCodes(),
		RetriableHeaders: d.headerMatchers(r.GetRetriableHeaders(), "retriable_headers", place),
		RequestHeaders:   d.headerMatchers(r.GetRetriableRequestHeaders(), "retriable_request_headers", place),
		HostAttempts:     max(int(r.GetHostSelectionRetryMaxAttempts()), 1),
	}
	if r.GetNumRetries() != nil {
		n := r.GetNumRetries().GetValue()
		out.Retries = &n
	}
	d.retryOn(r.GetRetryOn(), out, place.in("retry_on"))
	d.retryBackoff(r, out, place)
	d.retryHosts(r, out, place)
	return out
}

// retryOn leaves out words that are unknown, as Envoy does, and says so.
func (d *decoder) retryOn(text string, out *config.RetryPolicy, place at) {
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		switch {
		case word == "" || slices.Contains(out.On, word):
		case contains(retryConditions, word):
			out.On = append(out.On, word)
		default:
			d.warn(place, fmt.Sprintf("%q is not a condition that is known: it is left out", shorten(word)))
		}
	}
}

func (d *decoder) retryBackoff(r *routev3.RetryPolicy, out *config.RetryPolicy, place at) {
	out.BackoffBase, out.BackoffMax = defaultRetryBase, retryMaxFactor*defaultRetryBase
	if b := r.GetRetryBackOff(); b != nil {
		in := place.in("retry_back_off")
		out.BackoffBase = max(duration(b.GetBaseInterval(), defaultRetryBase, in.in("base_interval")), minRetryBase)
		out.BackoffMax = duration(b.GetMaxInterval(), retryMaxFactor*out.BackoffBase, in.in("max_interval"))
		if b.GetMaxInterval() != nil {
			out.BackoffMax = max(out.BackoffMax, minRetryBase)
		}
		if out.BackoffMax < out.BackoffBase {
			in.in("max_interval").bad("%s is below base_interval, %s", out.BackoffMax, out.BackoffBase)
		}
	}
	l := r.GetRateLimitedRetryBackOff()
	if l == nil {
		return
	}
	in := place.in("rate_limited_retry_back_off")
	out.RateLimitedMax = duration(l.GetMaxInterval(), defaultRateLimitedMax, in.in("max_interval"))
	for _, h := range l.GetResetHeaders() {
		out.RateLimitedHeaders = append(out.RateLimitedHeaders, config.ResetHeader{
			Name: strings.ToLower(h.GetName()), Unix: h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP,
		})
	}
}

// retryHosts is which hosts another attempt goes to.
func (d *decoder) retryHosts(r *routev3.RetryPolicy, out *config.RetryPolicy, place at) {
	for i, p := range r.GetRetryHostPredicate() {
		in := place.item("retry_host_predicate", i).in("typed_config")
		switch d.open(anyOf(p, in), in).(type) {
		case *hostsv3.PreviousHostsPredicate:
			out.PreviousHosts = true
		case *canaryv3.OmitCanaryHostsPredicate:
			out.OmitCanary = true
		default:
			in.bad("extension %q is not supported by outrider as a predicate of hosts", shorten(p.GetName()))
		}
	}

}
