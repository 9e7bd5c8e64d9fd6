package accesslog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
)

type metadata = map[string]*structpb.Struct

// addLookups has the operators that look something up by the name in their
// argument.
func addLookups(all map[string]spec) {
	dynamic := func(i *flow.Info) metadata { return i.DynamicMetadata }
	cluster := func(i *flow.Info) metadata { return i.ClusterMetadata }
	host := func(i *flow.Info) metadata { return i.UpstreamMetadata }
	all["DYNAMIC_METADATA"] = spec{argument: needsArgument, length: true, make: metadataOf(dynamic)}
	all["CLUSTER_METADATA"] = spec{argument: needsArgument, make: metadataOf(cluster)}
	all["UPSTREAM_METADATA"] = spec{argument: needsArgument, make: metadataOf(host)}
	all["METADATA"] = spec{argument: needsArgument, length: true, make: func(argument string) (operator, error) {
		kind, rest, _ := strings.Cut(argument, ":")
		switch kind {
		case "DYNAMIC":
			return metadataOf(dynamic)(rest)
		case "CLUSTER":
			return metadataOf(cluster)(rest)
		case "UPSTREAM_HOST":
			return metadataOf(host)(rest)
		case "ROUTE":
			return metadataOf(ofRequestMetadata(func(h *flow.HTTP) metadata { return h.RouteMetadata }))(rest)
		case "VIRTUAL_HOST", "LISTENER", "LISTENER_FILTER_CHAIN":
			return operator{}, fmt.Errorf("metadata of a %s is not kept", kind)
		}
		return operator{}, fmt.Errorf("%q is no kind of metadata", kind)
	}}
	all["FILTER_STATE"] = spec{argument: needsArgument, length: true, make: filterState(
		(*flow.Info).State)}
	all["UPSTREAM_FILTER_STATE"] = spec{argument: needsArgument, length: true, make: filterState(
		func(i *flow.Info, key string) (string, bool) {
			if p := i.PeerState(key); p != nil && p == i.UpstreamPeer && i.HTTP == nil {
				return p.Text(), true
			}
			return "", false
		})}
	all["ENVIRONMENT"] = spec{argument: needsArgument, length: true, make: func(name string) (operator, error) {
		if v, ok := os.LookupEnv(name); ok {
			return constant(v), nil
		}
		return constant("-"), nil // text in JSON too, as in Envoy
	}}
	all["COALESCE"] = spec{argument: needsArgument, length: true, make: coalesce}
	all["STREAM_ID"] = spec{make: func(string) (operator, error) { return streamID(), nil }}
}

func ofRequestMetadata(f func(*flow.HTTP) metadata) func(*flow.Info) metadata {
	return func(i *flow.Info) metadata {
		if i.HTTP == nil {
			return nil
		}
		return f(i.HTTP)
	}
}

// metadataOf takes NAMESPACE or NAMESPACE:KEY:KEY...
func metadataOf(get func(*flow.Info) metadata) func(string) (operator, error) {
	return func(argument string) (operator, error) {
		path := strings.Split(argument, ":")
		find := func(e *entry) *structpb.Value { return findValue(get(e.info), path) }
		return operator{
			text: func(b []byte, e *entry) ([]byte, bool) {
				v := find(e)
				if v == nil {
					return b, false
				}
				if s, ok := v.GetKind().(*structpb.Value_StringValue); ok {
					return append(b, s.StringValue...), true
				}
				return appendValue(b, v), true
			},
			json: func(b []byte, e *entry) ([]byte, bool) {
				v := find(e)
				if v == nil {
					return b, false
				}
				return appendValue(b, v), true
			},
		}, nil
	}
}

// findValue is nil if there is nothing, or null.
func findValue(m metadata, path []string) *structpb.Value {
	s := m[path[0]]
	if s == nil {
		return nil
	}
	if len(path) == 1 {
		return structpb.NewStructValue(s)
	}
	var v *structpb.Value
	for _, key := range path[1:] {
		v = s.GetFields()[key]
		s = v.GetStructValue()
	}
	if _, null := v.GetKind().(*structpb.Value_NullValue); null {
		return nil
	}
	return v
}

// filterState takes KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME. Objects are
// text here: TYPED prints it as JSON; only Istio's peers have fields.
func filterState(get func(*flow.Info, string) (string, bool)) func(string) (operator, error) {
	return func(argument string) (operator, error) {
		key, rest, _ := strings.Cut(argument, ":")
		kind, field, _ := strings.Cut(rest, ":")
		switch {
		case key == "":
			return operator{}, errors.New("wants a key")
		case (kind == "FIELD") != (field != ""):
			return operator{}, errors.New("wants a field with FIELD, and only with it")
		}
		value := func(b []byte, e *entry) ([]byte, bool) {
			s, ok := get(e.info, key)
			return append(b, s...), ok
		}
		quoted := func(b []byte, e *entry) ([]byte, bool) {
			s, ok := get(e.info, key)
			if !ok {
				return b, false
			}
			return appendQuoted(b, s), true
		}
		switch kind {
		case "PLAIN":
			return operator{text: value}, nil
		case "", "TYPED":
			return operator{text: quoted, json: quoted}, nil
		case "FIELD":
			return operator{text: peerField(key, field)}, nil
		}
		return operator{}, fmt.Errorf("%q is none of PLAIN, TYPED, FIELD", kind)
	}
}

// peerField is one thing that a peer says of itself.
func peerField(key, field string) func([]byte, *entry) ([]byte, bool) {
	return func(b []byte, e *entry) ([]byte, bool) {
		p := e.info.PeerState(key)
		if p == nil {
			return b, false
		}
		w := p.Workload()
		v, ok := w.Field(field)
		return append(b, v...), ok
	}
}

// coalesce takes {"operators": [...]}, each the name of an operator or an
// object of command, param and max_length. It is the first that has a value.
func coalesce(argument string) (operator, error) {
	var cfg struct {
		Operators []json.RawMessage `json:"operators"`
	}
	if err := strictJSON([]byte(argument), &cfg); err != nil {
		return operator{}, err
	}
	if len(cfg.Operators) == 0 {
		return operator{}, errors.New("wants operators")
	}
	var all []*operator
	known := operators()
	for i, raw := range cfg.Operators {
		op, err := coalesced(known, raw)
		if err != nil {
			return operator{}, fmt.Errorf("operators[%d]: %w", i, err)
		}
		all = append(all, op)
	}
	first := func(b []byte, e *entry, print func(*operator) func([]byte, *entry) ([]byte, bool)) ([]byte, bool) {
		start := len(b)
		for _, op := range all {
			var ok bool
			if b, ok = print(op)(b, e); ok {
				return b, true
			}
			b = b[:start]
		}
		return b, false
	}
	return operator{
		text: func(b []byte, e *entry) ([]byte, bool) {
			return first(b, e, func(o *operator) func([]byte, *entry) ([]byte, bool) { return o.text })
		},
		json: func(b []byte, e *entry) ([]byte, bool) {
			return first(b, e, func(o *operator) func([]byte, *entry) ([]byte, bool) {
				return func(b []byte, e *entry) ([]byte, bool) { return typed{o}.append(b, e, true) }
			})
		},
	}, nil
}

func coalesced(known map[string]spec, raw json.RawMessage) (*operator, error) {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return compileOperator(known, name, "", "")
	}
	var one struct {
		Command   string `json:"command"`
		Param     string `json:"param"`
		MaxLength *uint  `json:"max_length"`
	}
	if err := strictJSON(raw, &one); err != nil {
		return nil, err
	}
	length := ""
	if one.MaxLength != nil {
		length = strconv.FormatUint(uint64(*one.MaxLength), 10)
	}
	return compileOperator(known, one.Command, one.Param, length)
}

func strictJSON(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// streamID is a UUID that is the same in all lines of a connection, and of a
// request its x-request-id. Envoy draws the UUID at random; this is made of what
// tells connections apart.
func streamID() operator {
	hostname, _ := os.Hostname()
	seed := hostname + "/" + strconv.Itoa(os.Getpid())
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		if e.info.HTTP != nil {
			id := requestID(e.info.HTTP)
			return append(b, id...), id != ""
		}
		var room [96]byte
		in := append(room[:0], seed...)
		in = strconv.AppendUint(append(in, '/'), e.info.ID, 10)
		in = strconv.AppendInt(append(in, '/'), e.info.Start.UnixNano(), 10)
		sum := sha256.Sum256(in)
		return appendUUIDOf(b, [16]byte(sum[:16])), true
	}}
}

// requestID is the request's x-request-id, "" if it has none.
func requestID(h *flow.HTTP) string {
	if h.RequestID != "" || h.Request == nil {
		return h.RequestID
	}
	return h.Request.Value("x-request-id")
}

// appendUUIDOf prints 16 bytes as a UUID (RFC 9562, version 4).
func appendUUIDOf(b []byte, id [16]byte) []byte {
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	from := 0
	for i, size := range [...]int{4, 2, 2, 2, 6} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, id[from:from+size])
		from += size
	}
	return b
}
