package filter

import (
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/rbac"
)

// Explainer is a Factory that can say what it would make of a request. It
// leaves no trace, neither in info nor in the metrics.
type Explainer interface {
	// Explain has the request in info.HTTP.Request, and what its route has for
	// the filter, nil for nothing.
	Explain(info *flow.Info, o *config.FilterOverride) Explanation
}

// Explanation is what a filter would make of a request.
type Explanation struct {
	// Denied says that the filter would answer the request itself, and Reason
	// why; else Reason is what it does.
	Denied bool
	Reason string
	// Rules and Shadow are how RBAC's rules were evaluated; nil if there are
	// none.
	Rules, Shadow *rbac.Verdict
}
