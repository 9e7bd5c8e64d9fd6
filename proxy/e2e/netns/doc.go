// Package netns runs outrider as sidecar, with the redirection of `outrider
// iptables`, in hosts of network namespaces that its tests make: a meshed client
// and server, a host without a sidecar and an authority, around a router that
// sees every frame. Its tests have the build tag netns, need root, and a binary
// that the environment variable OUTRIDER names; with ENVOY, real Envoy takes the
// server's place, too. `make test` provides both.
package netns
