package health

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"outrider/proxy/config"
)

// grpcProbe calls grpc.health.v1.Health/Check.
type grpcProbe struct {
	cfg    *config.GRPCHealthCheck
	target Target
	h2     h2Conn
}

func (p *grpcProbe) Close() { p.h2.close() }

func (p *grpcProbe) Check(ctx context.Context, dial Dial) Result {
	req, err := p.request(ctx)
	if err != nil {
		return Result{Kind: Active, Err: err}
	}
	resp, err := p.h2.do(ctx, dial, req)
	if err != nil {
		return failed(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		p.Close()
		return failed(ctx, err)
	}
	if !p.target.Reuse {
		p.Close()
	}
	if err := serving(resp, body); err != nil {
		return Result{Kind: Active, Err: err}
	}
	return Result{}
}

func (p *grpcProbe) request(ctx context.Context) (*http.Request, error) {
	msg, err := proto.Marshal(&healthpb.HealthCheckRequest{Service: p.cfg.Service})
	if err != nil {
		return nil, err
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	host := cmp.Or(p.target.Hostname, p.cfg.Authority, p.target.Cluster)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"http://health-check.invalid"+healthpb.Health_Check_FullMethodName, bytes.NewReader(append(frame, msg...)))
	if err != nil {
		return nil, err
	}
	req.Host = authority(host)
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for _, kv := range p.cfg.Metadata {
		req.Header.Add(kv[0], kv[1])
	}
	return req, nil
}

// serving is nil if the host says that it serves.
func serving(resp *http.Response, body []byte) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	if status != "0" {
		return fmt.Errorf("gRPC status %q", status)
	}
	if len(body) < 5 || body[0] != 0 || binary.BigEndian.Uint32(body[1:5]) != uint32(len(body)-5) {
		return errors.New("the answer is not one uncompressed gRPC message")
	}
	var answer healthpb.HealthCheckResponse
	if err := proto.Unmarshal(body[5:], &answer); err != nil {
		return err
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("status %s", answer.Status)
	}
	return nil
}
