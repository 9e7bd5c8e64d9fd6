package relay

import "io"

// carry moves bytes until the source ends (nil) or either side fails. While the
// source is silent it holds no buffer.
func (d *flow) carry() (failed, error) {
	if src, ok := d.src.(*plain); ok && src.wait != nil {
		if dst, ok := d.dst.(*plain); ok && dst.wait != nil {
			return d.carrySocket(src, dst)
		}
		return d.carrySocket(src, nil)
	}
	for {
		if err := d.src.WaitReadable(); err != nil {
			return reading, err
		}
		if f, err := d.carryOnce(); err != nil {
			return f, atEnd(err)
		}
	}
}

// carryOnce carries what one read brings. io.EOF is the end of the source.
func (d *flow) carryOnce() (failed, error) {
	buf := takeBuffer()
	defer giveBuffer(buf)
	n, err := d.src.Read(buf[:])
	return d.passOn(buf[:n], err)
}

// passOn writes what a read has brought, with its error.
func (d *flow) passOn(b []byte, rerr error) (failed, error) {
	d.received(len(b))
	if err := d.write(b); err != nil {
		return writing, err
	}
	return reading, rerr
}

// carrySocket is carry from a plaintext socket. If dst is one as well, the
// kernel moves the bytes while there are many.
func (d *flow) carrySocket(src, dst *plain) (failed, error) {
	for {
		buf, n, err := src.readPooled()
		if err != nil {
			return reading, atEnd(err)
		}
		f, err := d.passOn(buf[:n], nil)
		giveBuffer(buf)
		if err != nil {
			return f, err
		}
		if dst != nil && n >= spliceAfter {
			if f, err = d.splice(src, dst); err != nil {
				return f, atEnd(err)
			}
		}
	}
}

// atEnd is err, and nil for the end of the source. A write never fails with
// io.EOF.
func atEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
