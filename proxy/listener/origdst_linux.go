package listener

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: linux
// netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// systemOriginalDst asks the kernel's connection tracking.
func systemOriginalDst(c net.Conn, local netip.AddrPort) (netip.AddrPort, bool, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, false, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	var dst netip.AddrPort
	var found error
	err = raw.Control(func(fd uintptr) {
		if local.Addr().Is4() {
			dst, found = originalDst4(fd)
		} else {
			dst, found = originalDst6(fd)
		}
	})
	if err == nil {
		err = found
	}
	switch {
	case err == nil:
		return dst, true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EOPNOTSUPP):
		return netip.AddrPort{}, false, nil // not redirected, or no connection tracking
	}
	return netip.AddrPort{}, false, err
}

func originalDst4(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrInet4
	if err := getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), networkOrder(sa.Port)), nil
}

func originalDst6(fd uintptr) (netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6
	if err := getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), networkOrder(sa.Port)), nil
}

func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}

func getsockopt(fd uintptr, level int, value unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst, uintptr(value), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
