// Peers measures outrider beside real Envoy, nginx, haproxy, ghostunnel, the
// simplest Go proxy (the floor) and no proxy at all (the limit), alternating in
// rounds in one run, and writes the tables and the picture of
// docs/performance.md:
//
//	go run ./bench/peers                                      # all, about 25 minutes
//	go run ./bench/peers -row bulk -peer outrider,envoy -rounds 1
//	go run ./bench/peers -row http -profile DIR               # CPU profiles of outrider alone
//	go run ./bench/peers -scale -rounds 2                     # how cost grows, outrider and Envoy: docs/scale.md
//	go run ./bench/peers -render                              # the document again, from the figures kept
//
// All share certificates (ECDSA P-256), X25519, TLS 1.3 and AES-128-GCM. The
// proxies run on the first CPU that this process may use, client and server on
// the others. A proxy whose work is not the same (it lets a client in that has
// no certificate, or speaks another cipher) is not measured: that is an error.
//
// CPU time is that of the proxies' processes over the measured window only, by
// their CPU clocks, after a warm-up. Latency at a fixed rate counts from when a
// message was due, whether or not those before it were answered.
package main
