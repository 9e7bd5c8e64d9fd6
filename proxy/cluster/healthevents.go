package cluster

import (
	"encoding/json"
	"os"
	"sync"

	"outrider/proxy/cluster/health"
	"outrider/proxy/config"
)

// healthEvents is the event log of a cluster's health checks: a file of JSON
// lines, each an envoy.data.core.v3.HealthCheckEvent.
type healthEvents struct {
	c    *Cluster
	cfg  *config.HealthCheck
	mu   sync.Mutex
	file *os.File // guarded by mu; opened at the first event
}

// healthEvent has the fields in Envoy's order; exactly one of the pointers is
// set.
type healthEvent struct {
	Type             string          `json:"health_checker_type"`
	Host             eventHost       `json:"host"`
	Cluster          string          `json:"cluster_name"`
	Eject            *ejectUnhealthy `json:"eject_unhealthy_event,omitempty"`
	AddHealthy       *addHealthy     `json:"add_healthy_event,omitempty"`
	Timestamp        string          `json:"timestamp"`
	Failure          *checkFailure   `json:"health_check_failure_event,omitempty"`
	Degraded         *struct{}       `json:"degraded_healthy_host,omitempty"`
	NoLongerDegraded *struct{}       `json:"no_longer_degraded_host,omitempty"`
	Locality         eventLocality   `json:"locality"`
}

type eventHost struct {
	Socket *eventSocket `json:"socket_address,omitempty"`
	Pipe   *eventPipe   `json:"pipe,omitempty"`
}

type eventSocket struct {
	Protocol  string `json:"protocol"`
	Address   string `json:"address"`
	Port      uint16 `json:"port_value"`
	Resolver  string `json:"resolver_name"`
	V4Compat  bool   `json:"ipv4_compat"`
	Namespace string `json:"network_namespace_filepath"`
}

type eventPipe struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"`
}

type eventLocality struct {
	Region  string `json:"region"`
	Zone    string `json:"zone"`
	SubZone string `json:"sub_zone"`
}

type ejectUnhealthy struct {
	Type   string `json:"failure_type"`
	Status int    `json:"http_status_code"`
}

type addHealthy struct {
	FirstCheck bool `json:"first_check"`
}

type checkFailure struct {
	Type   string `json:"failure_type"`
	First  bool   `json:"first_check"`
	Status int    `json:"http_status_code"`
}

func newHealthEvents(c *Cluster, cfg *config.HealthCheck) *healthEvents {
	return &healthEvents{c: c, cfg: cfg}
}

// log writes one event about h. A file that cannot be written is reported in
// the log and changes nothing else.
func (e *healthEvents) log(h *Host, ev healthEvent) {
	if e.cfg.EventLogPath == "" {
		return
	}
	ev.Type, ev.Cluster = health.TypeName(e.cfg), e.c.cfg.Name
	ev.Timestamp = e.c.opts.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	if a := h.Address(); a.IsIP() {
		ev.Host.Socket = &eventSocket{Protocol: "TCP", Address: a.Addr().String(), Port: a.Port()}
	} else {
		ev.Host.Pipe = &eventPipe{Path: a.Path}
	}
	l := h.Locality()
	ev.Locality = eventLocality(l)
	line, err := json.Marshal(ev)
	if err == nil {
		err = e.write(append(line, '\n'))
	}
	if err != nil {
		e.c.opts.Log.Error("health check event not logged", "cluster", e.c.cfg.Name, "reason", err)
	}
}

func (e *healthEvents) write(line []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil {
		f, err := os.OpenFile(e.cfg.EventLogPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		e.file = f
	}
	_, err := e.file.Write(line)
	return err
}

func (e *healthEvents) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file != nil {
		e.file.Close()
		e.file = nil
	}
}
