package jwtauthn

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// verification is the judging of one request.
type verification struct {
	s      filter.Stream
	head   *message.Head
	now    time.Time
	failed map[*provider]bool // their keys could not be fetched
	misses *stats.Counter     // tokens that were looked at; nil where that does not count

	metadata   map[string]*structpb.Struct
	clearRoute bool
}

// lives reports whether the token's life is as the provider wants it.
func lives(c *config.JWTProvider, t *token, now time.Time) bool {
	if t.exp == 0 {
		return !c.RequireExpiration && c.MaxLifetime == 0
	}
	if c.MaxLifetime == 0 {
		return true
	}
	seconds := uint64(max(now.Unix(), 0))
	return t.exp <= seconds || t.exp-seconds <= uint64(c.MaxLifetime/time.Second)
}

// forAudience reports whether one of the token's audiences is wanted; without
// wishes all are. http://, https:// and a slash at the end make no difference.
func forAudience(wanted, have []string) bool {
	if len(wanted) == 0 {
		return true
	}
	return slices.ContainsFunc(have, func(a string) bool {
		return slices.ContainsFunc(wanted, func(w string) bool { return bareAudience(a) == bareAudience(w) })
	})
}

func bareAudience(s string) string {
	if rest, ok := strings.CutPrefix(s, "https://"); ok {
		s = rest
	} else if rest, ok := strings.CutPrefix(s, "http://"); ok {
		s = rest
	}
	return strings.TrimSuffix(s, "/")
}

// good does what the provider wants for a token that is verified.
func (v *verification) good(p *provider, t *token, at found) {
	if name := strings.ToLower(p.cfg.ForwardPayloadHeader); name != "" {
		value := strings.TrimRight(t.payloadBase64, "=")
		if p.cfg.PadPayloadHeader {
			value += strings.Repeat("=", (4-len(value)%4)%4)
		}
		v.head.Fields.Add(name, value)
	}
	for _, c := range p.cfg.ClaimToHeaders {
		if value, ok := claimText(t.payload, c[1]); ok {
			v.head.Fields.Add(strings.ToLower(c[0]), value)
		}
	}
	if !p.cfg.Forward {
		at.remove(v.head)
	}
	v.put(p.cfg.HeaderInMetadata, t.header)
	v.put(p.cfg.PayloadInMetadata, normalized(t.payload, p.cfg.NormalizeSpaces))
	v.clearRoute = v.clearRoute || p.cfg.ClearRouteCache && (len(p.cfg.ClaimToHeaders) > 0 || p.cfg.PayloadInMetadata != "")
}

func (v *verification) put(key string, s *structpb.Struct) {
	if key == "" {
		return
	}
	if v.metadata == nil {
		v.metadata = map[string]*structpb.Struct{}
	}
	v.metadata[key] = s
}

// failedWith tells of a failure where the provider wants it.
func (v *verification) failedWith(p *provider, st status) {
	if p == nil || p.cfg.FailedStatusInMetadata == "" {
		return
	}
	v.put(p.cfg.FailedStatusInMetadata, &structpb.Struct{Fields: map[string]*structpb.Value{
		"code":    structpb.NewStringValue(strconv.Itoa(int(st))),
		"message": structpb.NewStringValue(st.String()),
	}})
}

// store puts the metadata into the request, and has its route chosen anew if
// that may depend on them.
func (v *verification) store() {
	for key, s := range v.metadata {
		v.s.Info().SetMetadata(metadataNamespace, key, structpb.NewStructValue(s))
	}
	if v.clearRoute {
		v.s.ClearRoute()
	}
}

// normalized is the payload with those claims as lists that are words with
// spaces between.
func normalized(s *structpb.Struct, claims []string) *structpb.Struct {
	if len(claims) == 0 {
		return s
	}
	out := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(s.GetFields()))}
	for k, v := range s.GetFields() {
		if text, is := v.GetKind().(*structpb.Value_StringValue); is && slices.Contains(claims, k) {
			list := &structpb.ListValue{}
			for word := range strings.FieldsSeq(text.StringValue) {
				list.Values = append(list.Values, structpb.NewStringValue(word))
			}
			v = structpb.NewListValue(list)
		}
		out.Fields[k] = v
	}
	return out
}

// claimText is a claim (a.b.c is a claim within a claim) as the value of a
// header: lists and objects are JSON in base64. Nothing is no header.
func claimText(payload *structpb.Struct, name string) (string, bool) {
	v := claim(payload, name)
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		if strings.ContainsAny(k.StringValue, "\x00\r\n") {
			return "", false // no header can have it
		}
		return k.StringValue, k.StringValue != ""
	case *structpb.Value_NumberValue:
		return numberText(k.NumberValue), true
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue), true
	case *structpb.Value_StructValue, *structpb.Value_ListValue:
		text, err := json.Marshal(v.AsInterface())
		return base64.StdEncoding.EncodeToString(text), err == nil
	}
	return "", false
}

// claim looks for the name as it is, then for what is before a dot.
func claim(s *structpb.Struct, name string) *structpb.Value {
	if v := s.GetFields()[name]; v != nil {
		return v
	}
	outer, inner, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	return claim(s.GetFields()[outer].GetStructValue(), inner)
}

// numberText has no fraction if the number has none and is not negative, else
// six digits of it.
func numberText(n float64) string {
	if n >= 0 && n < math.MaxUint64 && n == math.Trunc(n) {
		return strconv.FormatUint(uint64(n), 10)
	}
	return strconv.FormatFloat(n, 'f', 6, 64)
}
