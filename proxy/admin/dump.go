package admin

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"outrider/certs"
)

// configDump answers /config_dump.
func (a *handler) configDump(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var names *regexp.Regexp
	if text := q.Get("name_regex"); text != "" {
		var err error
		if names, err = regexp.Compile(`\A(?:` + text + `)\z`); err != nil {
			http.Error(w, "Error while parsing name_regex from "+text, http.StatusBadRequest)
			return
		}
	}
	mask, err := parseMask(q.Get("mask"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sections := a.sections(q.Has("include_eds"))
	out := &adminv3.ConfigDump{}
	if resource := q.Get("resource"); resource != "" {
		err = addResource(out, sections, resource, mask, names)
	} else {
		err = addSections(out, sections, mask, names)
	}
	if err != nil {
		status := http.StatusBadRequest
		if strings.HasSuffix(err.Error(), "not found in config dump") {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}

func parseMask(text string) (*fieldmaskpb.FieldMask, error) {
	if text == "" {
		return nil, nil
	}
	return &fieldmaskpb.FieldMask{Paths: strings.Split(text, ",")}, nil
}

func addSections(out *adminv3.ConfigDump, sections []proto.Message, mask *fieldmaskpb.FieldMask, names *regexp.Regexp) error {
	for _, s := range sections {
		keepNamed(s.ProtoReflect(), names)
		// A mask of fields that a section does not have leaves it out.
		if mask != nil && !applyMask(s, mask) {
			continue
		}
		packed, err := anypb.New(s)
		if err != nil {
			return err
		}
		out.Configs = append(out.Configs, packed)
	}
	return nil
}

// addResource adds the elements of one repeated field of one section.
func addResource(out *adminv3.ConfigDump, sections []proto.Message, resource string, mask *fieldmaskpb.FieldMask, names *regexp.Regexp) error {
	for _, s := range sections {
		m := s.ProtoReflect()
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(resource))
		if fd == nil {
			continue
		}
		if !fd.IsList() {
			return fmt.Errorf("%s is not a repeated field. Use ?mask=%s to get only this field", resource, resource)
		}
		keepNamed(m, names)
		for i := range m.Get(fd).List().Len() {
			one := m.Get(fd).List().Get(i).Message().Interface()
			if mask != nil && !applyMask(one, mask) {
				return fmt.Errorf("FieldMask %v could not be successfully used", mask.GetPaths())
			}
			packed, err := anypb.New(one)
			if err != nil {
				return err
			}
			out.Configs = append(out.Configs, packed)
		}
		return nil
	}
	return fmt.Errorf("%s not found in config dump", resource)
}

// applyMask clears everything that mask does not name. It is false if m has
// none of the fields.
func applyMask(m proto.Message, mask *fieldmaskpb.FieldMask) bool {
	wanted := map[string][]string{}
	for _, p := range mask.GetPaths() {
		first, rest, _ := strings.Cut(p, ".")
		wanted[first] = append(wanted[first], rest)
	}
	r := m.ProtoReflect()
	found := false
	for name := range wanted {
		found = found || r.Descriptor().Fields().ByName(protoreflect.Name(name)) != nil
	}
	if !found {
		return false
	}
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		rest, ok := wanted[string(fd.Name())]
		switch {
		case !ok:
			r.Clear(fd)
		case slices.Contains(rest, "") || fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				applyMask(v.List().Get(i).Message().Interface(), &fieldmaskpb.FieldMask{Paths: rest})
			}
		case !fd.IsMap():
			applyMask(v.Message().Interface(), &fieldmaskpb.FieldMask{Paths: rest})
		}
		return true
	})
	return true
}

// keepNamed keeps of every list the elements whose resource has a name that
// matches.
func keepNamed(m protoreflect.Message, names *regexp.Regexp) {
	if names == nil {
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !fd.IsList() || fd.Message() == nil {
			return true
		}
		kept := m.NewField(fd).List()
		for i := range v.List().Len() {
			if names.MatchString(nameOf(v.List().Get(i).Message())) {
				kept.Append(v.List().Get(i))
			}
		}
		m.Set(fd, protoreflect.ValueOfList(kept))
		return true
	})
}

// nameOf is the name of a dumped resource: its own, or that of the message in
// its Any.
func nameOf(m protoreflect.Message) string {
	for _, field := range []protoreflect.Name{"name", "cluster_name"} {
		if fd := m.Descriptor().Fields().ByName(field); fd != nil && fd.Kind() == protoreflect.StringKind && m.Get(fd).String() != "" {
			return m.Get(fd).String()
		}
	}
	found := ""
	m.Range(func(_ protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		inner, ok := v.Interface().(protoreflect.Message)
		if !ok {
			return true
		}
		if packed, ok := inner.Interface().(*anypb.Any); ok {
			if one, err := packed.UnmarshalNew(); err == nil {
				found = nameOf(one.ProtoReflect())
			}
			return false
		}
		return true
	})
	return found
}

// sections are the parts of the dump in Envoy's order.
func (a *handler) sections(eds bool) []proto.Message {
	out := []proto.Message{a.bootstrapDump(), a.clustersDump()}
	if eds {
		out = append(out, a.endpointsDump())
	}
	return append(out, a.listenersDump(), &adminv3.ScopedRoutesConfigDump{}, &adminv3.RoutesConfigDump{}, a.secretsDump())
}

func (a *handler) bootstrapDump() proto.Message {
	b, _ := a.opts.Bootstrap.Source.(*bootstrapv3.Bootstrap)
	return &adminv3.BootstrapConfigDump{Bootstrap: b, LastUpdated: timestamppb.New(a.opts.Start)}
}

func pack(m proto.Message) *anypb.Any {
	if m == nil {
		return nil
	}
	packed, err := anypb.New(m)
	if err != nil {
		return nil
	}
	return packed
}

func (a *handler) clustersDump() proto.Message {
	out := &adminv3.ClustersConfigDump{}
	for _, c := range a.opts.Clusters() {
		if c.Dynamic {
			out.DynamicActiveClusters = append(out.DynamicActiveClusters, &adminv3.ClustersConfigDump_DynamicCluster{
				Cluster: pack(c.Source), LastUpdated: timestamppb.New(c.Updated),
			})
			continue
		}
		out.StaticClusters = append(out.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{
			Cluster: pack(c.Source), LastUpdated: timestamppb.New(c.Updated),
		})
	}
	return out
}

func (a *handler) endpointsDump() proto.Message {
	out := &adminv3.EndpointsConfigDump{}
	for _, c := range a.opts.Clusters() {
		if c.Assignment == nil {
			continue
		}
		if c.EDS {
			out.DynamicEndpointConfigs = append(out.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{EndpointConfig: pack(c.Assignment)})
		} else {
			out.StaticEndpointConfigs = append(out.StaticEndpointConfigs, &adminv3.EndpointsConfigDump_StaticEndpointConfig{EndpointConfig: pack(c.Assignment)})
		}
	}
	return out
}

func (a *handler) listenersDump() proto.Message {
	out := &adminv3.ListenersConfigDump{}
	state := func(v *Version) *adminv3.ListenersConfigDump_DynamicListenerState {
		if v == nil {
			return nil
		}
		return &adminv3.ListenersConfigDump_DynamicListenerState{
			VersionInfo: v.Info, Listener: pack(v.Source), LastUpdated: timestamppb.New(v.Updated),
		}
	}
	for _, l := range a.opts.Listeners() {
		if !l.Dynamic && l.Active != nil {
			out.StaticListeners = append(out.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{
				Listener: pack(l.Active.Source), LastUpdated: timestamppb.New(l.Active.Updated),
			})
			continue
		}
		d := &adminv3.ListenersConfigDump_DynamicListener{
			Name: l.Name, ActiveState: state(l.Active), WarmingState: state(l.Warming), DrainingState: state(l.Draining),
		}
		if r := l.Refused; r != nil {
			d.ErrorState = &adminv3.UpdateFailureState{
				FailedConfiguration: pack(r.Source), LastUpdateAttempt: timestamppb.New(r.When), Details: r.Details, VersionInfo: r.Version,
			}
		}
		out.DynamicListeners = append(out.DynamicListeners, d)
	}
	return out
}

func (a *handler) secretsDump() proto.Message {
	out := &adminv3.SecretsConfigDump{}
	for _, h := range a.opts.Secrets() {
		secret, err := h.Current()
		if h.Ref().Source == nil {
			if err == nil {
				out.StaticSecrets = append(out.StaticSecrets, &adminv3.SecretsConfigDump_StaticSecret{
					Name: secret.Name, LastUpdated: timestamppb.New(secret.Updated), Secret: pack(secret.Source),
				})
			}
			continue
		}
		d := dynamicSecret(h, secret)
		if err != nil {
			out.DynamicWarmingSecrets = append(out.DynamicWarmingSecrets, d)
		} else {
			out.DynamicActiveSecrets = append(out.DynamicActiveSecrets, d)
		}
	}
	return out
}

func dynamicSecret(h *certs.Handle, secret *certs.Secret) *adminv3.SecretsConfigDump_DynamicSecret {
	d := &adminv3.SecretsConfigDump_DynamicSecret{Name: h.Ref().Name}
	if secret != nil {
		d.VersionInfo, _, _ = strings.Cut(secret.Version, " ")
		d.LastUpdated, d.Secret = timestamppb.New(secret.Updated), pack(secret.Source)
	} else {
		d.VersionInfo, d.Secret = "uninitialized", pack(&tlsv3.Secret{Name: h.Ref().Name})
	}
	if err, when := h.LastFailure(); err != nil {
		d.ErrorState = &adminv3.UpdateFailureState{LastUpdateAttempt: timestamppb.New(when), Details: err.Error()}
	}
	return d
}
