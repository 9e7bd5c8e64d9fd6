package cluster

import "outrider/tlsmux"

func (c *Cluster) countTLS(*tlsmux.State, error) {}
func tlsReason(err error) string                 { return err.Error() }
