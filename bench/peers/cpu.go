package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pinnedMark is in the environment of a process that is on its CPUs already.
const pinnedMark = "PEERS_PINNED"

// cores are the CPUs of the run: the proxies' one, and the load's.
type cores struct {
	proxy, load unix.CPUSet
	shared      bool // there is but one CPU
}

// splitCores gives the first CPU that this process may use to the proxies and
// the others to the load.
func splitCores(all unix.CPUSet) cores {
	var c cores
	for i := range 1024 {
		switch {
		case !all.IsSet(i):
		case c.proxy.Count() == 0:
			c.proxy.Set(i)
		default:
			c.load.Set(i)
		}
	}
	if c.load.Count() == 0 {
		c.load, c.shared = c.proxy, true
	}
	return c
}

// proxies are the CPUs for that many workers: beyond one, the load's too.
func (c cores) proxies(workers int) unix.CPUSet {
	all := c.proxy
	for i := 0; i < 1024 && all.Count() < workers; i++ {
		if c.load.IsSet(i) {
			all.Set(i)
		}
	}
	return all
}

// pinSelf has this process begin anew on the load's CPUs, for the Go runtime
// counts its CPUs when it begins, and returns which CPUs there were.
func pinSelf() (cores, error) {
	var all unix.CPUSet
	if mark := os.Getenv(pinnedMark); mark != "" {
		for i, bit := range mark {
			if bit == '1' {
				all.Set(i)
			}
		}
		return splitCores(all), os.Unsetenv(pinnedMark)
	}
	runtime.LockOSThread()
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return cores{}, err
	}
	c := splitCores(all)
	if err := unix.SchedSetaffinity(0, &c.load); err != nil {
		return cores{}, err
	}
	mark := make([]byte, 1024)
	for i := range mark {
		mark[i] = '0'
		if all.IsSet(i) {
			mark[i] = '1'
		}
	}
	self, err := os.Executable()
	if err != nil {
		return cores{}, err
	}
	return cores{}, syscall.Exec(self, os.Args, append(os.Environ(), pinnedMark+"="+string(mark)))
}

// cpuTime is the CPU time that a process has used, ended threads too
// (clock_getcpuclockid(3)).
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// machineTime is the CPU time that everything on this machine has used, in
// steps of 10 ms (proc_stat(5)).
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 { // idle, and waiting for a disk
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
