// Package h2 is HTTP/2 (RFC 9113) on the wire, for both sides of a connection,
// behind the stream interface of package codec.
//
// Two goroutines serve a connection. The one that calls Serve or Run reads,
// takes frames apart and calls the Receivers. The other one writes: whoever
// sends appends frames to one buffer under the connection's lock and wakes the
// writer, which writes all there is at once. Data that finds no room in the
// buffer or in the peer's window waits in its stream, and the writer moves it
// into the buffer, frame by frame and stream by stream in turn.
//
// The lock is never held while a Receiver, a Requests or a Pool is called.
//
// What package codec leaves open:
//
//   - Requests.Idle and Pool.Freed come from the goroutine that reads, or from
//     the one that writes if what ended the stream came from elsewhere.
//   - A request with a malformed head, or one over the limits, is begun with
//     Requests.Request and ended with OnReset, which has the detail; there is no
//     OnHead. One beyond MaxConcurrentStreams is refused without a call.
//   - Reset(NoError) of a complete message lets it go out first. Any other
//     reason drops what waits.
//   - Reset of a stream that is through returns the bytes that were not
//     Consumed to the connection's window; one or the other has to be called.
//   - An extended CONNECT is HTTP/1's upgrade to its receiver, and an upgrade
//     is sent as an extended CONNECT; 200 and 101 are exchanged likewise.
//
// Messages are judged as Envoy judges them (nghttp2, and HTTP/2's codec
// options). A mistake that ends the connection is told with GOAWAY, which Envoy
// leaves out.
//
// A connection without streams holds no buffer.
package h2
