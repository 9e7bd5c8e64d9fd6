package extauthz

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	"outrider/tlsmux"
)

// question is what the service is told of a request; a copy, for the request
// may change or end while it is asked.
type question struct {
	request *authv3.CheckRequest
	fields  message.Fields // of the request, those that the service may see
	method  string
	body    *bodyPart
}

// bodyPart is the body, or its beginning.
type bodyPart struct {
	bytes   []byte
	partial bool
}

func (a *authz) question(h *message.Head, body *bodyPart) *question {
	info, c := a.s.Info(), a.f.cfg
	q := &question{method: h.Method, body: body}
	q.fields = a.f.visible(h)
	if body != nil {
		q.fields.Set(partialHeader, strconv.FormatBool(body.partial))
	}
	attributes := &authv3.AttributeContext{
		Source:            peerOf(info.Remote, peerLeaf(info.Downstream), c.IncludePeerCert),
		Destination:       peerOf(info.Local, localLeaf(info.Downstream), false),
		Request:           &authv3.AttributeContext_Request{Time: timestamppb.New(info.Start), Http: a.httpAttributes(h, q)},
		ContextExtensions: a.extensions,
		MetadataContext:   &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}},
	}
	attributes.Source.Service = validText(h.Fields.Value("x-envoy-downstream-service-cluster"))
	attributes.Destination.Labels = a.f.labels
	for _, ns := range c.MetadataContext {
		if s := info.DynamicMetadata[ns]; s != nil {
			attributes.MetadataContext.FilterMetadata[ns] = proto.CloneOf(s)
		}
	}
	if c.IncludeTLSSession && info.Downstream != nil {
		attributes.TlsSession = &authv3.AttributeContext_TLSSession{Sni: info.SNI}
	}
	q.request = &authv3.CheckRequest{Attributes: attributes}
	return q
}

func (a *authz) httpAttributes(h *message.Head, q *question) *authv3.AttributeContext_HttpRequest {
	info := a.s.Info()
	out := &authv3.AttributeContext_HttpRequest{
		Id: validText(info.HTTP.RequestID), Method: h.Method, Path: h.Path, Host: h.Authority, Scheme: h.Scheme,
		Protocol: info.HTTP.Protocol.String(), Size: int64(info.Received.Load()), Headers: map[string]string{},
	}
	for _, f := range q.fields {
		if _, there := out.Headers[f.Name]; !there {
			value, _ := q.fields.Joined(f.Name)
			out.Headers[f.Name] = validText(value)
		}
	}
	out.Path, out.Host = validText(out.Path), validText(out.Host)
	if q.body != nil {
		if a.body.AsBytes {
			out.RawBody = q.body.bytes
		} else {
			out.Body = validText(string(q.body.bytes))
		}
	}
	return out
}

// validText has "!" for each byte that is no UTF-8, of which a string of
// protobuf must be (Envoy: sanitizeUtf8String).
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	out := []byte(s)
	for i := 0; i < len(out); {
		r, n := utf8.DecodeRune(out[i:])
		if r == utf8.RuneError && n == 1 {
			out[i] = '!'
		}
		i += n
	}
	return string(out)
}

// visible are the pseudo-headers and fields that the service may see.
func (f *factory) visible(h *message.Head) message.Fields {
	var out message.Fields
	add := func(name, value string) {
		if f.mayShow(name) {
			out.Add(name, value)
		}
	}
	for _, name := range [...]string{":authority", ":path", ":method", ":scheme"} {
		if v := h.Value(name); v != "" {
			add(name, v)
		}
	}
	for _, x := range h.Fields {
		add(x.Name, x.Value)
	}
	return out
}

func (f *factory) mayShow(name string) bool {
	switch {
	case anyMatches(f.cfg.DisallowedHeaders, name):
		return false
	case f.cfg.AllowedSet && anyMatches(f.cfg.AllowedHeaders, name):
		return true
	case f.cfg.HTTP != nil: // these go to it in any case
		return name == ":authority" || name == ":method" || name == ":path" || name == "content-length" || name == "authorization"
	}
	return !f.cfg.AllowedSet
}

func anyMatches(list []certs.StringMatcher, s string) bool {
	for i := range list {
		if list[i].Match(s) {
			return true
		}
	}
	return false
}

// peerOf is one end: its address, and who it says it is.
func peerOf(a flow.Addr, cert *x509.Certificate, withCert bool) *authv3.AttributeContext_Peer {
	out := &authv3.AttributeContext_Peer{Address: address(a)}
	if cert == nil {
		return out
	}
	switch {
	case len(cert.URIs) > 0:
		out.Principal = cert.URIs[0].String()
	case len(cert.DNSNames) > 0:
		out.Principal = cert.DNSNames[0]
	default:
		out.Principal = cert.Subject.String()
	}
	out.Principal = validText(out.Principal)
	if withCert {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		out.Certificate = strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20")
	}
	return out
}

func address(a flow.Addr) *corev3.Address {
	if !a.IsIP() {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: a.Path}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func peerLeaf(s *tlsmux.State) *x509.Certificate {
	if s == nil || len(s.Peer) == 0 {
		return nil
	}
	return s.Peer[0]
}

func localLeaf(s *tlsmux.State) *x509.Certificate {
	if s == nil {
		return nil
	}
	return s.Local
}

// labelsOf are the strings of a struct in the node's metadata.
func labelsOf(n *config.Node, key string) map[string]string {
	if n == nil || key == "" {
		return nil
	}
	out := map[string]string{}
	for k, v := range n.Metadata.GetFields()[key].GetStructValue().GetFields() {
		if s, ok := v.GetKind().(*structpb.Value_StringValue); ok {
			out[k] = s.StringValue
		}
	}
	return out
}
