// Package e2e runs outrider and real Envoy side by side, each as client, as
// server and on the same bootstrap. Its tests have the build tag envoy and
// need two binaries, named by the environment variables ENVOY and OUTRIDER;
// `make test` provides both.
package e2e
