package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string) *process {
	t.Helper()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	p, err := startProcess(all, []string{"/bin/sh", "-c", script}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// said waits until the process has written a line, and returns it.
func said(t *testing.T, p *process) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if text := p.log.String(); text != "" {
			return text
		}
	}
	t.Fatal("the process says nothing")
	return ""
}

func TestStopEndsChildrenThatTheirParentLeft(t *testing.T) {
	p := start(t, "sleep 1000 & echo $!; trap '' TERM; wait")
	child := said(t, p)
	p.stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // a kill takes its time
		text, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("child %s still runs: %s", child, text)
		}
	}
}

func TestCPUTimeIsThatOfChildrenToo(t *testing.T) {
	p := start(t, "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 1000) & wait")
	defer p.stop()
	said(t, p)
	machine, err := machineTime()
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	own, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if all < own+10*time.Millisecond {
		t.Errorf("%s with children, %s without", all, own)
	}
	if machine < all-20*time.Millisecond {
		t.Errorf("the machine has used %s, and a process of it %s", machine, all)
	}
	if pss, rss, err := p.memory(); err != nil || pss <= 0 || rss < pss {
		t.Errorf("memory: PSS %d, RSS %d, %v", pss, rss, err)
	}
}

func TestALogKeepsItsEnd(t *testing.T) {
	var l logBuffer
	for i := range 20000 {
		if _, err := l.Write([]byte(strconv.Itoa(i) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if text := l.String(); len(text) > 2*logKept || !strings.HasSuffix(text, "\n19999") {
		t.Errorf("%d bytes are kept, which end in %q", len(text), text[len(text)-10:])
	}
}
