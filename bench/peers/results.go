package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results is what a run found; the document is made of it.
type results struct {
	Date    string       `json:"date"`
	Rounds  int          `json:"rounds"`
	Seconds float64      `json:"seconds"` // of each window
	Machine machine      `json:"machine"`
	Peers   []peerResult `json:"peers"`
	Samples []sample     `json:"samples"`
	Gaps    []gap        `json:"gaps,omitempty"`
}

// machine is what the figures depend on.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_gib"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

type peerResult struct {
	Name    string `json:"name"`
	About   string `json:"about"`
	Version string `json:"version,omitempty"`
	Missing string `json:"missing,omitempty"`
}

// sample is one measure of one peer.
type sample struct {
	Row    string `json:"row"`
	Peer   string `json:"peer"`
	Round  int    `json:"round"`
	Values values `json:"values"`
}

// gap is a measure that there is not, and why.
type gap struct {
	Row  string `json:"row"`
	Peer string `json:"peer"`
	Why  string `json:"why"`
}

func newResults(window time.Duration, peers []*peer, cores int) *results {
	r := &results{Date: time.Now().UTC().Format(time.DateOnly), Seconds: window.Seconds(), Machine: thisMachine(cores)}
	for _, p := range peers {
		r.Peers = append(r.Peers, peerResult{p.name, p.about, p.version, p.missing})
	}
	return r
}

func thisMachine(cores int) machine {
	m := machine{Cores: cores, Go: runtime.Version(), CPU: runtime.GOARCH}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		m.Memory = int64(info.Totalram*uint64(info.Unit)+(1<<29)) >> 30
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
		m.Kernel, _, _ = strings.Cut(m.Kernel, "-") // the rest says where it was built
	}
	return m
}

func (r *results) save(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func loadResults(path string) (*results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New(path + ": there is none: run the benchmark first")
		}
		return nil, err
	}
	r := &results{}
	return r, json.Unmarshal(text, r)
}
