// Package hop measures requests over one hop of the mesh: a client in
// plaintext to a proxy, mTLS to the next proxy, plaintext to a server. Both
// proxies share one CPU; client and server have the others. Real Envoy runs
// beside in the same run where its binary is given:
//
//	ENVOY=/path/to/envoy go test -run '^$' -bench . ./bench/hop
//
// What counts is requests per second of the proxies' CPU time, which the load
// generator does not touch, and the latency at a fixed rate that all can carry.
package hop
