package relay

import (
	"io"

	"golang.org/x/sys/unix"

	"outrider/tlsmux/wait"
)

// Buffer is what ReadLazy reads into.
type Buffer = wait.Buffer

// Lazy is a Conn that waits and reads at once. One that is around another
// implements it with ReadLazy on that.
type Lazy interface {
	ReadLazy(b Buffer) (int, error)
}

// ReadLazy is WaitReadable and Read, with one system call less where c is Lazy.
// It holds no buffer while it waits.
func ReadLazy(c Conn, b Buffer) (int, error) {
	if l, ok := c.(Lazy); ok {
		return l.ReadLazy(b)
	}
	if err := c.WaitReadable(); err != nil {
		return 0, err
	}
	n, err := c.Read(b.Take())
	if n == 0 {
		b.Drop()
	}
	return n, err
}

// ReadLazy tries to read, and waits only if there is nothing.
func (p *plain) ReadLazy(b Buffer) (int, error) {
	if p.wait == nil {
		n, err := p.Read(b.Take())
		if n == 0 {
			b.Drop()
		}
		return n, err
	}
	if p.lazy == nil {
		p.lazy = p.readLazy
	}
	p.into = b
	err := p.wait.Raw().Read(p.lazy)
	p.into = nil
	if err != nil {
		return 0, err
	}
	return p.n, p.err
}

// readLazy is one read(2); false, holding nothing, if there is nothing yet.
func (p *plain) readLazy(fd uintptr) bool {
	p.n, p.err = readOnce(int(fd), p.into.Take())
	switch {
	case p.err == nil && p.n > 0:
		return true
	case p.err == nil:
		p.err = io.EOF
	}
	p.n = 0
	p.into.Drop()
	return p.err != unix.EAGAIN
}
