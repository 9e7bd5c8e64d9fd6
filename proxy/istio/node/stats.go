package node

import "strings"

// The annotations of a pod that say which metrics its sidecar shows, beside
// those that it always does.
const (
	prefixesAnnotation = "sidecar.istio.io/statsInclusionPrefixes"
	suffixesAnnotation = "sidecar.istio.io/statsInclusionSuffixes"
	regexpsAnnotation  = "sidecar.istio.io/statsInclusionRegexps"
	tagsAnnotation     = "sidecar.istio.io/extraStatTags"
	bucketsAnnotation  = "sidecar.istio.io/statsHistogramBuckets"
)

// Stats are the metrics that are to be shown beside Istio's.
type Stats struct {
	Prefixes, Suffixes, Regexps []string
	Tags                        []string // labels, by name
}

// Stats is what the annotations, or else the ProxyConfig, want of metrics.
func (n *Node) Stats() Stats {
	m := n.Proxy.GetProxyStatsMatcher()
	return Stats{
		Prefixes: n.listOr(prefixesAnnotation, m.GetInclusionPrefixes()),
		Suffixes: n.listOr(suffixesAnnotation, m.GetInclusionSuffixes()),
		Regexps:  n.listOr(regexpsAnnotation, m.GetInclusionRegexps()),
		Tags:     append(n.Proxy.GetExtraStatTags(), n.listOr(tagsAnnotation, nil)...),
	}
}

// listOr is an annotation's list, else what is configured. Each {pod_ip} stands
// for every address of the workload.
func (n *Node) listOr(annotation string, configured []string) []string {
	list := configured
	if text := n.Annotations[annotation]; text != "" {
		list = strings.Split(text, ",")
	}
	var out []string
	for _, pattern := range list {
		if pattern == "" {
			continue
		}
		if !strings.Contains(pattern, "{pod_ip}") {
			out = append(out, pattern)
			continue
		}
		for _, ip := range n.Addresses {
			out = append(out, strings.ReplaceAll(pattern, "{pod_ip}", ip.String()))
		}
	}
	return out
}
