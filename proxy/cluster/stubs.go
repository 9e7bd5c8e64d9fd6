package cluster

import (
	"context"
	"net"
	"outrider/proxy/config"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

type healthChecks struct{}

func newHealthChecks(*Cluster, *config.HealthCheck) *healthChecks { return &healthChecks{} }
func (*healthChecks) run(context.Context)                         {}
func (*healthChecks) discovered() bool                            { return true }

type outlierDetection struct{}
type ejection struct{}

func newOutlierDetection(*Cluster, *config.Outlier) *outlierDetection { return nil }
func (*outlierDetection) run(context.Context)                         {}
func (*outlierDetection) connected(*Host)                             {}
func (*outlierDetection) failed(*Host, bool)                          {}

func (c *Cluster) resolve(context.Context)       {}
func (c *Cluster) countTLS(*tlsmux.State, error) {}
func tlsReason(err error) string                 { return err.Error() }

type plainConn struct{ *net.TCPConn }

func (plainConn) WaitReadable() error { return nil }
func plain(c net.Conn) (relay.Conn, error) {
	return plainConn{c.(*net.TCPConn)}, nil
}
