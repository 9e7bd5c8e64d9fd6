package decode

import "outrider/proxy/config"

// referenceKind is what a name refers to.
type referenceKind int

const (
	// toCluster is where connections go; it may come by CDS.
	toCluster referenceKind = iota
	// toServingCluster serves configuration; it must be static.
	toServingCluster
	// toSecret is a static secret.
	toSecret
	// toADS is the aggregated stream.
	toADS
)

// reference is a name that must exist elsewhere.
type reference struct {
	kind  referenceKind
	name  string
	place at
}

func (d *decoder) refer(kind referenceKind, name string, place at) {
	if name != "" {
		d.refs = append(d.refs, reference{kind, name, place})
	}
}

// checkReferences reports the names that static does not have. Clusters for
// traffic are demanded only in the bootstrap itself, and only if none can come
// later.
func (d *decoder) checkReferences(static *config.Bootstrap) {
	clusters, secrets := map[string]bool{}, map[string]bool{}
	for _, c := range static.Clusters {
		clusters[c.Name] = true
	}
	for _, s := range static.Secrets {
		secrets[s.Name] = true
	}
	closed := static != d.opts.Static && static.CDS == nil
	for _, r := range d.refs {
		switch {
		case r.kind == toSecret && !secrets[r.name]:
			r.place.bad("%q is not among static_resources.secrets, and there is no sds_config", r.name)
		case r.kind == toADS && static.ADS == nil:
			r.place.bad("there is no dynamic_resources.ads_config")
		case r.kind == toServingCluster && !clusters[r.name]:
			r.place.bad("unknown cluster %q: it must be in static_resources.clusters", r.name)
		case r.kind == toCluster && closed && !clusters[r.name]:
			r.place.bad("unknown cluster %q", r.name)
		}
	}
}
