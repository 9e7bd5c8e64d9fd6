package main

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgramPages has the process forget which pages of its program it has
// mapped, so that those that only the start used no longer count as its memory;
// those that are used come back from the page cache. Linux maps 16 around each
// one, and the start uses something of everything: the descriptors of Envoy's
// API.
func dropProgramPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(maps)) {
		if start, size, ok := programPages(line, exe); ok {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED); errno != 0 {
				errs = append(errs, os.NewSyscallError("madvise", errno))
			}
		}
	}
	return errors.Join(errs...)
}

// programPages are those of a line of /proc/PID/maps that are of a file and
// cannot be written to: what is dropped of them is read again as it was.
func programPages(line, exe string) (start, size uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) != 6 || f[5] != exe || strings.Contains(f[1], "w") || !strings.HasSuffix(f[1], "p") {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	a, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	b, err := strconv.ParseUint(to, 16, 64)
	if err != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
