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
// A connection without streams holds no buffer.
package h2
