package h1

// bodyKind is how the end of a body is found.
type bodyKind uint8

const (
	bodyNone    bodyKind = iota
	bodyLength           // after so many bytes
	bodyChunked          // after the last chunk
	bodyClose            // with the connection
	bodyRaw              // a tunnel: with the direction
)

// chunkState is where in a chunked body the reader is.
type chunkState uint8

const (
	chunkSize   chunkState = iota // before the first digit
	chunkDigits                   // after one
	chunkSpace                    // white space after the digits
	chunkExt                      // in an extension
	chunkSizeLF                   // before the LF of the size's line
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailers // the last chunk is through
)

// maxChunkLine is how many bytes the line before a chunk may have. Envoy has no
// limit.
const maxChunkLine = 4096

// body takes a body apart as it comes.
type body struct {
	kind  bodyKind
	left  int64 // of the length, or of the chunk
	state chunkState
	line  int // bytes of the chunk's line
}

// take takes all that is there of the body. The data is at the beginning of
// what was there, and is good until the next fill. over says that no more
// belongs to the body; then trailers follow a chunked one.
func (b *body) take(in *input) (data []byte, over bool, m *mistake) {
	p := in.data()
	switch b.kind {
	case bodyLength:
		p = p[:min(int64(len(p)), b.left)]
		b.left -= int64(len(p))
		in.start += len(p)
		return p, b.left == 0, nil
	case bodyClose, bodyRaw:
		in.start += len(p)
		return p, false, nil
	case bodyChunked:
		n, taken, m := b.chunks(p)
		in.start += taken
		return p[:n], b.state == chunkTrailers, m
	case bodyNone:
	}
	return nil, true, nil
}

// chunks moves the data of chunks together, at the beginning of p. It returns
// the length of the data, and how much of p was taken.
func (b *body) chunks(p []byte) (n, taken int, m *mistake) {
	for taken < len(p) && b.state != chunkTrailers {
		if b.state == chunkData {
			k := int(min(int64(len(p)-taken), b.left))
			if n != taken {
				copy(p[n:], p[taken:taken+k])
			}
			n += k
			taken += k
			if b.left -= int64(k); b.left == 0 {
				b.state = chunkDataCR
			}
			continue
		}
		if m := b.step(p[taken]); m != nil {
			return n, taken, m
		}
		taken++
	}
	return n, taken, nil
}

// step takes one byte that is not data.
func (b *body) step(c byte) *mistake {
	switch b.state {
	case chunkSize, chunkDigits, chunkSpace, chunkExt:
		return b.sizeLine(c)
	case chunkSizeLF:
		if c != '\n' {
			return bad("%q after the CR of a chunk's line", c)
		}
		b.line = 0
		if b.state = chunkData; b.left == 0 {
			b.state = chunkTrailers
		}
	case chunkDataCR:
		if c != '\r' {
			return bad("%q after a chunk", c)
		}
		b.state = chunkDataLF
	case chunkDataLF:
		if c != '\n' {
			return bad("%q after the CR of a chunk", c)
		}
		b.state = chunkSize
	case chunkData, chunkTrailers:
	}
	return nil
}

// sizeLine takes a byte of the line with the size.
func (b *body) sizeLine(c byte) *mistake {
	if b.line++; b.line > maxChunkLine {
		return bad("more than %d bytes before a chunk", maxChunkLine)
	}
	d := hexDigit(c)
	switch {
	case b.state <= chunkDigits && d >= 0:
		if b.left >= 1<<58 {
			return bad("the size of a chunk is above %d bytes", int64(1)<<62)
		}
		b.left = b.left<<4 | int64(d)
		b.state = chunkDigits
	case b.state == chunkSize:
		return bad("%q is not the size of a chunk", c)
	case c == '\r':
		b.state = chunkSizeLF
	case b.state == chunkExt && valueChars[c]:
	case c == ';':
		b.state = chunkExt
	case c == ' ', c == '\t':
		b.state = chunkSpace
	default:
		return bad("%q in the line of a chunk", c)
	}
	return nil
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
