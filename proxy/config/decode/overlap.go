package decode

import (
	"net/netip"
	"strconv"

	"outrider/proxy/config"
)

// maxMatches is how many combinations of criteria one listener may have: 10,000
// chains of 100 are as many.
const maxMatches = 1_000_000

// overlaps reports chains that match the same connections by the same
// criteria: which of them was meant cannot be told. Each combination of one
// value a criterion is written out, as in Envoy's tables.
func (d *decoder) overlaps(chains []*config.FilterChain, place at) {
	seen := map[string]int{}
	total := 0
	for i, c := range chains {
		criteria := criteriaOf(c.Match)
		count := 1
		for _, values := range criteria {
			count *= len(values)
			if total+count > maxMatches {
				place.item("filter_chains", i).in("filter_chain_match").bad("makes more than %d combinations of criteria with those before it", maxMatches)
				return
			}
		}
		total += count
		reported := false
		combine(criteria, "", func(key string) {
			if before, ok := seen[key]; ok && before != i {
				if !reported {
					place.item("filter_chains", i).in("filter_chain_match").bad("has the same matching rules as filter_chains[%d]", before)
				}
				reported = true
				return
			}
			seen[key] = i
		})
	}
}

// combine calls f with each way to take one value of each criterion.
func combine(criteria [][]string, key string, f func(string)) {
	if len(criteria) == 0 {
		f(key)
		return
	}
	for _, v := range criteria[0] {
		combine(criteria[1:], key+"\x00"+v, f)
	}
}

// criteriaOf lists the values of each criterion; one that is unset has the
// single value "".
func criteriaOf(m config.FilterChainMatch) [][]string {
	return [][]string{
		{strconv.Itoa(int(m.DestinationPort))},
		prefixes(m.Prefixes),
		texts(m.ServerNames),
		{m.TransportProtocol},
		texts(m.ApplicationProtocols),
		prefixes(m.DirectSourcePrefixes),
		{strconv.Itoa(int(m.SourceType))},
		prefixes(m.SourcePrefixes),
		numbers(m.SourcePorts),
	}
}

func texts(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strconv.Quote(s)
	}
	return out
}

func prefixes(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return texts(out)
}

func numbers(list []uint16) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = strconv.Itoa(int(n))
	}
	return texts(out)
}
