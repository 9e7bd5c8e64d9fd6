package sidecar

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// ParseProbers reads the application's probes as they are put in the
// environment of an injected sidecar, ISTIO_KUBE_APP_PROBERS: by the path that
// the kubelet asks for (Istio: status.KubeAppProbers).
func ParseProbers(text string) (map[string]Probe, error) {
	type header struct{ Name, Value string }
	type prober struct {
		HTTPGet *struct {
			Path, Host, Scheme string
			Port               uint16
			HTTPHeaders        []header
		}
		TCPSocket *struct {
			Port uint16
			Host string
		}
		GRPC *struct {
			Port    uint16
			Service string
		}
		TimeoutSeconds int
	}
	var in map[string]prober
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, fmt.Errorf("probes: %w", err)
	}
	out := map[string]Probe{}
	for path, p := range in {
		name, ok := strings.CutPrefix(path, "/app-health/")
		if !ok {
			return nil, fmt.Errorf("probes: %q does not begin with /app-health/", path)
		}
		probe := Probe{Timeout: time.Duration(p.TimeoutSeconds) * time.Second}
		if p.HTTPGet != nil {
			probe.HTTPGet = &HTTPGet{Path: p.HTTPGet.Path, Port: p.HTTPGet.Port, Host: p.HTTPGet.Host, Scheme: p.HTTPGet.Scheme, Headers: map[string]string{}}
			for _, h := range p.HTTPGet.HTTPHeaders {
				probe.HTTPGet.Headers[h.Name] = h.Value
			}
		}
		if p.TCPSocket != nil {
			probe.TCPSocket = &TCPSocket{Port: p.TCPSocket.Port}
		}
		if p.GRPC != nil {
			probe.GRPC = &GRPC{Port: p.GRPC.Port, Service: p.GRPC.Service}
		}
		if kinds := probe.kinds(); kinds != 1 {
			return nil, fmt.Errorf("probes: %q has %d of httpGet, tcpSocket and grpc, not one", path, kinds)
		}
		out[name] = probe
	}
	return out, nil
}

// ParseScrape reads where the application's metrics are, as the environment of an
// injected sidecar has it, ISTIO_PROMETHEUS_ANNOTATIONS: what the annotations
// prometheus.io/scrape, path and port said. nil: it has none.
func ParseScrape(text string) (*Metrics, error) {
	var in struct{ Scrape, Scheme, Path, Port string }
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if in.Scrape != "true" && in.Scrape != "" {
		return nil, nil
	}
	if in.Scheme != "" && in.Scheme != "http" {
		return nil, fmt.Errorf("metrics: scheme %q: it is http", in.Scheme)
	}
	port, err := strconv.ParseUint(cmp.Or(in.Port, "80"), 10, 16)
	if err != nil || slices.Contains(reserved, uint16(port)) {
		return nil, fmt.Errorf("metrics: port %q: it is the application's", in.Port)
	}
	return &Metrics{Port: uint16(port), Path: cmp.Or(in.Path, "/metrics")}, nil
}

// kinds counts what is asked; one is right.
func (p *Probe) kinds() (n int) {
	for _, is := range []bool{p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil} {
		if is {
			n++
		}
	}
	return n
}

// Check makes the probe of an application on this host, for as long as ctx
// lasts. It is nil if the application is well.
func (p *Probe) Check(ctx context.Context) error {
	code, err := (&Status{}).probe(ctx, *p, http.Header{})
	if err == nil && (code < http.StatusOK || code >= http.StatusBadRequest) {
		return fmt.Errorf("the application answers %d", code)
	}
	return err
}

// grpc asks gRPC's health service.
func (s *Status) grpc(ctx context.Context, p *GRPC) (int, error) {
	conn, err := grpc.NewClient("passthrough:///"+s.app(p.Port), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: p.Service})
	if err != nil {
		return 0, err
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return 0, fmt.Errorf("the application says %s", answer.GetStatus())
	}
	return http.StatusOK, nil
}
