package telemetry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"outrider/proxy/cel"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// overrides are what a configuration changes of Istio's metrics. A nil one
// changes nothing.
type overrides struct {
	drop     [standardMetrics]bool
	standard [standardMetrics]tagChanges
	defined  []definition
	programs []*cel.Program
	ids      map[string]int // of programs, by their text
}

// tagChanges are what is changed of the labels of a metric.
type tagChanges struct {
	replaced map[string]int // to the value of which program; removed: none
	added    []addition
}

const removed = -1

type addition struct {
	name    string
	program int
}

// definition is a metric that Istio does not have.
type definition struct {
	name  string
	value int // of which program
	kind  config.IstioMetricKind
	added []addition
}

func newOverrides(cfg *config.IstioStats) (*overrides, error) {
	if len(cfg.Metrics) == 0 && len(cfg.Definitions) == 0 {
		return nil, nil
	}
	o := &overrides{ids: map[string]int{}}
	var errs []error
	for i, d := range cfg.Definitions {
		if err := o.define(d); err != nil {
			errs = append(errs, fmt.Errorf("definitions[%d].%w", i, err))
		}
	}
	for i, m := range cfg.Metrics {
		if err := o.change(m); err != nil {
			errs = append(errs, fmt.Errorf("metrics[%d].%w", i, err))
		}
	}
	return o, errors.Join(errs...)
}

func (o *overrides) define(d config.IstioDefinition) error {
	if slices.Contains(metricNames[:], d.Name) {
		return fmt.Errorf("name: %q is one of Istio's own metrics", d.Name)
	}
	if !isName(d.Name) {
		return fmt.Errorf("name: %q is no name of a metric", d.Name)
	}
	if slices.ContainsFunc(o.defined, func(other definition) bool { return other.name == d.Name }) {
		return fmt.Errorf("name: %q is defined already", d.Name)
	}
	id, err := o.program(d.Value)
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	o.defined = append(o.defined, definition{name: d.Name, value: id, kind: d.Kind})
	return nil
}

// isName reports what Prometheus can have as a name.
func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func (o *overrides) change(m config.IstioMetric) error {
	own := slices.IndexFunc(o.defined, func(d definition) bool { return d.name == m.Name })
	standard := metric(slices.Index(metricNames[:], m.Name))
	switch {
	case m.Drop && standard < 0:
		return fmt.Errorf("name: to drop %q, which is none of Istio's metrics", m.Name)
	case m.Drop:
		o.drop[standard] = true
		return nil
	case m.Name != "" && own < 0 && standard < 0:
		return fmt.Errorf("name: %q is none of Istio's metrics, and not defined", m.Name)
	}
	for _, tag := range m.Remove { // one that is not there is removed
		o.each(m.Name, func(c *tagChanges) { c.replace(tag, removed) }, nil)
	}
	for _, tag := range slices.Sorted(maps.Keys(m.Dimensions)) {
		if !isName(tag) {
			return fmt.Errorf("dimensions[%q]: it is no name of a label", tag)
		}
		id, err := o.program(m.Dimensions[tag])
		if err != nil {
			return fmt.Errorf("dimensions[%q]: %w", tag, err)
		}
		o.each(m.Name, func(c *tagChanges) {
			if slices.Contains(standardTags[:], tag) {
				c.replace(tag, id)
			} else {
				c.added = append(c.added, addition{tag, id})
			}
		}, func(d *definition) { d.added = append(d.added, addition{tag, id}) })
	}
	return nil
}

// each calls f for the standard metric of that name, and own for the defined
// one, or for all if it has none.
func (o *overrides) each(name string, f func(*tagChanges), own func(*definition)) {
	for m := range o.standard {
		if name == "" || metricNames[m] == name {
			f(&o.standard[m])
		}
	}
	for i := range o.defined {
		if own != nil && (name == "" || o.defined[i].name == name) {
			own(&o.defined[i])
		}
	}
}

func (c *tagChanges) replace(tag string, program int) {
	if c.replaced == nil {
		c.replaced = map[string]int{}
	}
	c.replaced[tag] = program
}

// standardTags are Istio's own.
var standardTags = [...]string{ //nolint:gochecknoglobals // a table
	"reporter", "source_workload", "source_workload_namespace", "source_principal", "source_app", "source_version",
	"source_canonical_service", "source_canonical_revision", "source_cluster",
	"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_service", "destination_service_name", "destination_service_namespace",
	"destination_canonical_service", "destination_canonical_revision", "destination_cluster",
	"request_protocol", "response_flags", "connection_security_policy", "response_code", "grpc_response_status",
}

// program is the number of the program of a text, compiled once.
func (o *overrides) program(text string) (int, error) {
	if id, ok := o.ids[text]; ok {
		return id, nil
	}
	p, err := cel.Compile(text)
	if err != nil {
		return 0, err
	}
	o.programs = append(o.programs, p)
	o.ids[text] = len(o.programs) - 1
	return len(o.programs) - 1, nil
}

func (o *overrides) drops(m metric) bool { return o != nil && o.drop[m] }

// apply are the labels of a metric, changed.
func (o *overrides) apply(m metric, base []stats.Label, values []string) []stats.Label {
	if o == nil {
		return base
	}
	c := &o.standard[m]
	out := make([]stats.Label, 0, len(base)+len(c.added))
	for _, l := range base {
		id, changed := c.replaced[l.Name]
		switch {
		case !changed:
			out = append(out, l)
		case id != removed:
			out = append(out, stats.Label{Name: l.Name, Value: values[id]})
		}
	}
	return appendAdded(out, c.added, values)
}

func appendAdded(out []stats.Label, added []addition, values []string) []stats.Label {
	for _, a := range added {
		out = append(out, stats.Label{Name: a.name, Value: values[a.program]})
	}
	return out
}

// valueEnd stands after each value; no value has it.
const valueEnd = "\x00"

// values are those of all programs, for a subject.
func (r *Reporter) values(info *flow.Info, request, response *message.Head) string {
	if r.overrides == nil || len(r.overrides.programs) == 0 {
		return ""
	}
	about := cel.Subject{Info: info, Request: request, Response: response, Node: r.deps.Node, Direction: r.deps.Direction, Cluster: r.deps.Cluster}
	var b strings.Builder
	for _, p := range r.overrides.programs {
		text, ok := p.Text(&about)
		if !ok {
			text = unknown
		}
		b.WriteString(clean(text))
		b.WriteString(valueEnd)
	}
	return b.String()
}

// clean is what can be the value of a label: within maxValue, and without
// control characters.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '_'
		}
		return c
	}, clip(s))
}

func splitValues(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, valueEnd), valueEnd)
}

// definedSeries is a defined metric of a subject; the pointer of its kind is
// set, unless there are too many.
type definedSeries struct {
	counter   *stats.Counter
	gauge     *stats.Gauge
	histogram *stats.Histogram
}

func (r *Reporter) createDefined(out *series, values []string) {
	for _, d := range r.overrides.defined {
		l := stats.Labelled{Namespace: namespace, Name: "istio_" + d.name, Labels: appendAdded(nil, d.added, values)}
		var one definedSeries
		var release func()
		switch d.kind {
		case config.IstioCounter:
			one.counter, release = r.deps.Stats.HoldCounter(l)
		case config.IstioGauge:
			one.gauge, release = r.deps.Stats.HoldGauge(l)
		case config.IstioHistogram:
			one.histogram, release = r.deps.Stats.HoldHistogram(l)
		default:
			continue
		}
		out.defined = append(out.defined, one)
		out.release = append(out.release, release)
	}
}

// countDefined counts the metrics of definitions, by the values of their
// expressions; what is no number is 0.
func (r *Reporter) countDefined(values string) {
	if r.overrides == nil || len(r.overrides.defined) == 0 {
		return
	}
	all := r.find(subject{kind: defined, status: noStatus, values: values}).defined
	split := splitValues(values)
	for i, d := range r.overrides.defined {
		n, err := strconv.ParseUint(split[d.value], 10, 64)
		if err != nil {
			n = 0
		}
		switch one := all[i]; {
		case one.counter != nil:
			one.counter.Add(n)
		case one.gauge != nil:
			one.gauge.SetUnsigned(n)
		case one.histogram != nil:
			one.histogram.Record(n)
		}
	}
}
