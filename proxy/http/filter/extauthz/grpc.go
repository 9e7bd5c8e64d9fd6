package extauthz

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// grpcService is envoy.service.auth.v3.Authorization.
type grpcService struct {
	cfg  *config.GRPCService
	conn grpc.ClientConnInterface
}

func (g *grpcService) check(ctx context.Context, q *question) (*verdict, error) {
	if g.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.cfg.Timeout)
		defer cancel()
	}
	for _, m := range g.cfg.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, m[0], m[1])
	}
	answer, err := authv3.NewAuthorizationClient(g.conn).Check(ctx, q.request)
	if err != nil {
		return nil, err
	}
	v, err := verdictOf(answer)
	if err != nil {
		return nil, err
	}
	v.metadata = answer.GetDynamicMetadata()
	return v, nil
}

func verdictOf(answer *authv3.CheckResponse) (*verdict, error) {
	if codes.Code(answer.GetStatus().GetCode()) == codes.OK {
		if answer.GetDeniedResponse() != nil {
			return nil, fmt.Errorf("the answer has status OK and a denied_response")
		}
		return allowedBy(answer.GetOkResponse()), nil
	}
	d := answer.GetDeniedResponse()
	v := &verdict{status: cmp.Or(int(d.GetStatus().GetCode()), http.StatusForbidden), body: d.GetBody()}
	if v.status < 100 || v.status > 599 {
		return nil, fmt.Errorf("status %d of a denial is no HTTP status", v.status)
	}
	v.take(d.GetHeaders())
	return v, nil
}

func allowedBy(ok *authv3.OkHttpResponse) *verdict {
	v := &verdict{allowed: true, queryRemove: ok.GetQueryParametersToRemove()}
	v.take(ok.GetHeaders())
	for _, name := range ok.GetHeadersToRemove() {
		v.remove = append(v.remove, strings.ToLower(name))
	}
	for _, p := range ok.GetQueryParametersToSet() {
		v.querySet = append(v.querySet, [2]string{p.GetKey(), p.GetValue()})
	}
	for _, o := range ok.GetResponseHeadersToAdd() {
		f := responseField{Field: field(o), action: config.HeaderAction(o.GetAppendAction())}
		if o.GetAppend() != nil { // the older field, which goes before
			f.action = config.HeaderOverwrite
			if o.GetAppend().GetValue() {
				f.action = config.HeaderAppend
			}
		}
		v.response = append(v.response, f)
	}
	return v
}

// take sorts the fields: only append: true joins, as Envoy has it.
func (v *verdict) take(options []*corev3.HeaderValueOption) {
	for _, o := range options {
		if o.GetAppend().GetValue() {
			v.appended = append(v.appended, field(o))
		} else {
			v.set = append(v.set, field(o))
		}
	}
}

func field(o *corev3.HeaderValueOption) message.Field {
	value := o.GetHeader().GetValue()
	if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
		value = string(raw)
	}
	return message.Field{Name: strings.ToLower(o.GetHeader().GetKey()), Value: strings.Trim(value, " \t")}
}
