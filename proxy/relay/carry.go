package relay

import "io"

// carry moves bytes until the source ends (nil) or either side fails. While the
// source is silent it holds no buffer.
func (d *flow) carry() (failed, error) {
	src, dst := socket(d.src), socket(d.dst)
	for {
		n, rerr := d.read()
		if n > 0 {
			err := d.passOn(d.room.read(n))
			d.room.Drop()
			if err != nil {
				return writing, err
			}
		}
		if rerr == errStay { //nolint:errorlint // it is never wrapped
			continue
		}
		if rerr != nil {
			return reading, atEnd(rerr)
		}
		if n >= spliceAfter && src != nil && dst != nil {
			if f, err := d.splice(src, dst); err != nil && err != errStay { //nolint:errorlint // likewise
				return f, atEnd(err)
			}
		}
	}
}

// socket is c if the kernel can move its bytes itself; nil else.
func socket(c Conn) *plain {
	if p, ok := c.(*plain); ok && p.wait != nil {
		return p
	}
	return nil
}

// passOn writes what a read has brought.
func (d *flow) passOn(b []byte) error {
	d.received(len(b))
	return d.write(b)
}

// atEnd is err, and nil for the end of the source. A write never fails with
// io.EOF.
func atEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
