// Package decode is the only way from Envoy's v3 configuration to the values
// of package config. What is not understood, not implemented or not right is
// refused, all of it at once, each mistake with its field path.
//
// A text goes through five phases: tree (syntax), walk (into messages, by
// descriptor), vet (is every field that is set implemented? the table in
// support.go), validate (the rules that Envoy's protos carry), convert (what
// only Envoy's code checks). A message that arrives by xDS begins at vet.
package decode

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/proxy/config"
)

// Options say what a configuration may refer to outside itself. The zero value
// is right for a bootstrap without flags.
type Options struct {
	// ConfigYAML is merged over the bootstrap (Envoy: --config-yaml), as
	// protobuf merges: single fields replace, lists are appended.
	ConfigYAML string
	// ServiceNode, ServiceCluster and ServiceZone replace node.id,
	// node.cluster and node.locality.zone if not "".
	ServiceNode, ServiceCluster, ServiceZone string
	// AllowUnknownStatic makes unknown fields of the bootstrap Warnings
	// (Envoy: --allow-unknown-static-fields). Known fields that outrider does
	// not implement stay errors.
	AllowUnknownStatic bool
	// Static is the bootstrap that dynamic resources refer to: clusters that
	// serve secrets or endpoints, secrets without a source, and the runtime.
	// nil leaves these references unchecked.
	Static *config.Bootstrap
	// ReadFile reads what a DataSource names; nil is os.ReadFile.
	ReadFile func(path string) ([]byte, error)
	// Getenv reads what a DataSource names, false if it is not set; nil is
	// os.LookupEnv.
	Getenv func(name string) (string, bool)
	// CheckFormat says what is wrong with a format of headers, bodies and paths
	// (Format or JSON is set); nil leaves that to whoever evaluates them.
	CheckFormat func(*config.AccessLog) error
	// HTTPFilters decode HTTP filters that are not outrider's, and what routes
	// have for them, by the name of the message in typed_config. The message
	// must be linked in: it is found in protoregistry.GlobalTypes. Those that
	// outrider has itself stay its own. nil is what Static was decoded with.
	HTTPFilters map[protoreflect.FullName]HTTPFilterDecoder
}

// decoder is one decoding: what was found, and what was opened on the way.
type decoder struct {
	opts     Options
	types    types
	found    Errors // of the current phase
	errs     Errors // of the phases before
	warnings []string

	opened    map[*anypb.Any]proto.Message // nil for one that is wrong
	insides   []inside                     // of Any, in the order found
	left      map[*anypb.Any]bool          // optional and not supported: left out
	refs      []reference
	sourced   bool                     // something comes from elsewhere
	statics   map[string]*certs.Secret // of this bootstrap, by name
	direction config.Direction         // of the listener that is decoded
	depth     int                      // of the message that is vetted
	tooDeep   bool
	runtime   map[string]string
	now       time.Time
	sum       hash.Hash // of what data reads; nil outside content
}

// inside is a message that was found in an Any.
type inside struct {
	message proto.Message
	place   at
}

func newDecoder(opts Options) *decoder {
	if opts.ReadFile == nil {
		opts.ReadFile = os.ReadFile
	}
	if opts.Getenv == nil {
		opts.Getenv = os.LookupEnv
	}
	d := &decoder{opts: opts, types: knownTypes(), opened: map[*anypb.Any]proto.Message{}, left: map[*anypb.Any]bool{}, statics: map[string]*certs.Secret{}, now: time.Now()}
	if opts.Static != nil {
		d.runtime = flattened(opts.Static.Runtime)
		if opts.HTTPFilters == nil {
			d.opts.HTTPFilters = opts.Static.HTTPFilterDecoders
		}
	}
	return d
}

// BootstrapFile is Bootstrap of the file at path. The text says itself whether
// it is YAML or JSON, but Envoy's binary and text protos (.pb, .pb_text) are
// refused.
func BootstrapFile(path string, opts Options) (*config.Bootstrap, error) {
	switch ext := filepath.Ext(path); ext {
	case ".pb", ".pb_text":
		return nil, Errors{{Path: path, Msg: "bootstraps in " + ext + " are not supported by outrider: use YAML or JSON"}}
	}
	read := opts.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Bootstrap(data, opts)
}

// Bootstrap decodes data, YAML or JSON, with opts.ConfigYAML merged over it.
// The error is Errors.
func Bootstrap(data []byte, opts Options) (*config.Bootstrap, error) {
	d := newDecoder(opts)
	root := at{d: d}
	b := &bootstrapv3.Bootstrap{}
	d.parse(data, b, root)
	if opts.ConfigYAML != "" {
		over := &bootstrapv3.Bootstrap{}
		d.parse([]byte(opts.ConfigYAML), over, root.in("--config-yaml"))
		proto.Merge(b, over)
	}
	d.applyFlags(b)
	if !d.check(b, root) {
		return nil, d.result()
	}
	out := d.bootstrap(b, root)
	d.settle()
	d.checkReferences(out)
	out.Warnings, out.HTTPFilterDecoders = d.warnings, opts.HTTPFilters
	if err := d.result(); err != nil {
		return nil, err
	}
	return out, nil
}

// parse walks a text into m.
func (d *decoder) parse(data []byte, m proto.Message, place at) {
	if tree := parseTree(data, place); tree != nil {
		d.fill(m.ProtoReflect(), tree, place)
	}
}

func (d *decoder) applyFlags(b *bootstrapv3.Bootstrap) {
	o := d.opts
	if o.ServiceNode+o.ServiceCluster+o.ServiceZone == "" {
		return
	}
	if b.Node == nil {
		b.Node = &corev3.Node{}
	}
	b.Node.Id = cmp.Or(o.ServiceNode, b.Node.Id)
	b.Node.Cluster = cmp.Or(o.ServiceCluster, b.Node.Cluster)
	if o.ServiceZone != "" {
		if b.Node.Locality == nil {
			b.Node.Locality = &corev3.Locality{}
		}
		b.Node.Locality.Zone = o.ServiceZone
	}
}

// check runs the phases that look at messages alone. It reports whether the
// message may be looked at further: one that is nested too deep may not.
func (d *decoder) check(m proto.Message, place at) bool {
	d.settle()
	d.vet(m.ProtoReflect(), place)
	d.settle()
	if d.tooDeep {
		return false
	}
	d.validate(m, place)
	for _, in := range d.insides {
		d.validate(in.message, in.place)
	}
	d.settle()
	return true
}

// Listener decodes one listener that arrived by itself. Paths in the error,
// which is Errors, begin at the listener.
func Listener(l *listenerv3.Listener, opts Options) (*config.Listener, error) {
	d := newDecoder(opts.dynamic())
	if !d.check(l, at{d: d}) {
		return nil, d.result()
	}
	out := d.listener(l, at{d: d})
	return out, d.finish()
}

// Cluster decodes one cluster that arrived by itself. Paths in the error, which
// is Errors, begin at the cluster.
func Cluster(c *clusterv3.Cluster, opts Options) (*config.Cluster, error) {
	d := newDecoder(opts.dynamic())
	if !d.check(c, at{d: d}) {
		return nil, d.result()
	}
	out := d.cluster(c, at{d: d})
	return out, d.finish()
}

// Assignment decodes the endpoints of one cluster. The error is Errors.
func Assignment(a *endpointv3.ClusterLoadAssignment, opts Options) (*config.Assignment, error) {
	d := newDecoder(opts.dynamic())
	if !d.check(a, at{d: d}) {
		return nil, d.result()
	}
	out := d.assignment(a, at{d: d}, false)
	return out, d.finish()
}

// Secret decodes one secret and reads the files it names. from says where it
// came from; version "" takes a digest of the content. The error is Errors.
func Secret(s *tlsv3.Secret, from, version string, opts Options) (*certs.Secret, error) {
	d := newDecoder(opts.dynamic())
	if !d.check(s, at{d: d}) {
		return nil, d.result()
	}
	out := d.secret(s, from, at{d: d})
	out.Version = cmp.Or(version, out.Version)
	return out, d.finish()
}

// dynamic is o for what does not stand in the bootstrap.
func (o Options) dynamic() Options {
	o.AllowUnknownStatic = false
	return o
}

// finish checks what a dynamic resource refers to, and is the error for all
// that was found.
func (d *decoder) finish() error {
	if d.opts.Static != nil {
		d.settle()
		d.checkReferences(d.opts.Static)
	}
	return d.result()
}

// digest tells equal messages from changed ones.
func digest(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "" // cannot be: m was just decoded
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func lower(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}
