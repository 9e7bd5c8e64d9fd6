// Package bench measures the parts that a connection passes through, each
// beside the plainest thing in Go that does the same work: cmux for sniffing,
// crypto/tls for handshakes, io.Copy for moving bytes. It is all tests; `make
// parts` runs them, over loopback only, in about a minute.
//
// Both ends of every connection and what lies between share one process and its
// CPUs, so only the ratio of two neighbouring lines means anything.
package bench
