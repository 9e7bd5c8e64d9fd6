package grpcstats

// frames counts the messages of a gRPC body: a flag, four bytes of length, and
// so many bytes. The zero value is at the begin of a body.
type frames struct {
	count  uint64
	header int    // bytes of the prefix that have come
	length uint32 // of the message, as far as its prefix has come
	left   uint32 // bytes of the message that have not come
}

// prefix is how many bytes stand before a message (gRPC over HTTP/2,
// Length-Prefixed-Message).
const prefix = 5

// take looks at the next bytes of a body, and returns how many messages began
// in them: one counts from its first byte on.
func (f *frames) take(p []byte) uint64 {
	before := f.count
	for len(p) > 0 {
		if f.left > 0 {
			n := min(uint64(f.left), uint64(len(p)))
			f.left -= uint32(n)
			p = p[n:]
			continue
		}
		if f.header > 0 {
			f.length = f.length<<8 | uint32(p[0])
		} else { // the flag
			f.count++
		}
		p = p[1:]
		if f.header++; f.header == prefix {
			f.left, f.length, f.header = f.length, 0, 0
		}
	}
	return f.count - before
}
