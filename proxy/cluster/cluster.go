// Package cluster is the upstream side that lives: endpoints from every kind
// of discovery, their health, load balancing, circuit breakers, and the dial
// with the transport socket that the endpoint's metadata chooses.
package cluster
