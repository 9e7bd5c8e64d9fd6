package decode

import (
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"

	"outrider/proxy/config"
)

// mutations are the changes of headers in the list field name.
func (d *decoder) mutations(list []*mutationv3.HeaderMutation, name string, place at) []config.HeaderMutate {
	var out []config.HeaderMutate
	for i, m := range list {
		in := place.item(name, i)
		var one config.HeaderMutate
		switch v := m.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			one.Remove = strings.ToLower(v.Remove)
		case *mutationv3.HeaderMutation_Append:
			option := d.headerToAdd(v.Append, in.in("append"))
			one.Append = &option
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			one.RemoveOnMatch = d.stringMatcher(v.RemoveOnMatch.GetKeyMatcher(), in.in("remove_on_match").in("key_matcher"))
		}
		out = append(out, one)
	}
	return out
}
