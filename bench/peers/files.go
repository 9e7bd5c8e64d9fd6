package main

import "syscall"

// filesWanted is how many files 10,000 connections take on either side of a
// proxy, and some.
const filesWanted = 50000

// raiseFiles raises the limit of open files as far as it goes; children inherit
// it.
func raiseFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	want := syscall.Rlimit{Cur: filesWanted, Max: max(l.Max, filesWanted)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err == nil {
		return nil
	}
	want = syscall.Rlimit{Cur: min(filesWanted, l.Max), Max: l.Max}
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want)
}

// filesAllowed is how many files a process may open.
func filesAllowed() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(l.Cur, filesWanted))
}
