package rbac

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// metadataRule is a rule on the dynamic metadata.
type metadataRule struct{ m *config.MetadataMatcher }

func (r metadataRule) match(f *facts) bool {
	return matchValue(&r.m.Value, r.value(f)) != r.m.Invert
}

func (r metadataRule) why(f *facts) string {
	v := r.value(f)
	if v == nil {
		return r.String() + ": it is not set"
	}
	return fmt.Sprintf("%s: it is %v", r, v.AsInterface())
}

func (r metadataRule) String() string {
	return "metadata " + r.m.Filter + ":" + strings.Join(r.m.Path, ".")
}

// value is what the path leads to; nil if nothing.
func (r metadataRule) value(f *facts) *structpb.Value {
	at := f.DynamicMetadata[r.m.Filter]
	var v *structpb.Value
	for _, key := range r.m.Path {
		if v = at.GetFields()[key]; v == nil {
			return nil
		}
		at = v.GetStructValue()
	}
	return v
}

// matchValue matches v, nil for a value that is not there. As in Envoy, only a
// metadata matcher's invert can match what is not there: present_match false
// matches nothing.
func matchValue(m *config.ValueMatcher, v *structpb.Value) bool {
	switch {
	case m.Null:
		_, ok := v.GetKind().(*structpb.Value_NullValue)
		return ok
	case m.Number != nil:
		n, ok := v.GetKind().(*structpb.Value_NumberValue)
		return ok && matchNumber(m.Number, n.NumberValue)
	case m.String != nil:
		s, ok := v.GetKind().(*structpb.Value_StringValue)
		return ok && m.String.Match(s.StringValue)
	case m.Bool != nil:
		b, ok := v.GetKind().(*structpb.Value_BoolValue)
		return ok && b.BoolValue == *m.Bool
	case m.Present != nil:
		return *m.Present && v.GetKind() != nil
	case m.ListOne != nil:
		for _, item := range v.GetListValue().GetValues() {
			if matchValue(m.ListOne, item) {
				return true
			}
		}
		return false
	default:
		for i := range m.Or {
			if matchValue(&m.Or[i], v) {
				return true
			}
		}
		return false
	}
}

func matchNumber(m *config.NumberMatcher, n float64) bool {
	if m.Exact != nil {
		return n == *m.Exact
	}
	return m.Start <= n && n < m.End
}

// MatchMetadata reports whether dynamic metadata match, for routes.
func MatchMetadata(m *config.MetadataMatcher, info *flow.Info) bool {
	return metadataRule{m}.match((*facts)(info))
}

// WhyMetadata is why it does not match.
func WhyMetadata(m *config.MetadataMatcher, info *flow.Info) string {
	return metadataRule{m}.why((*facts)(info))
}
