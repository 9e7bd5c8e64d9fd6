package sidecar

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sameUserEvery is how often it is looked who else runs as our user.
const sameUserEvery = 30 * time.Second

// WatchSameUser warns of other processes in this network that listen as our
// user: the redirection leaves that user alone, so what they call passes by the
// sidecar. Each port is told once. It runs until ctx ends; for root, whose
// traffic is redirected, it does nothing.
func WatchSameUser(ctx context.Context, log *slog.Logger) {
	uid := os.Getuid()
	if uid == 0 {
		return
	}
	told := map[netip.AddrPort]bool{}
	tick := time.NewTicker(sameUserEvery)
	defer tick.Stop()
	for {
		found, err := SameUser("/proc", uid)
		if err != nil {
			log.Debug("it cannot be told who else runs as our user", "reason", err)
		}
		for _, at := range found {
			if !told[at] {
				told[at] = true
				log.Warn("another process runs as the sidecar's user, and what it calls is not redirected: run it as another user", "uid", uid, "listens_on", at.String())
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// SameUser are the TCP addresses on which processes other than this one listen
// as uid, in the network namespace of this process; proc is where the proc file
// system is mounted. The processes themselves need not be visible.
func SameUser(proc string, uid int) ([]netip.AddrPort, error) {
	ours, err := ownSockets(proc)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(proc, "self/net", name))
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			s, ok := parseSocket(lines.Text())
			if ok && s.uid == uid && !ours[s.inode] {
				out = append(out, s.at)
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out), nil
}

// ownSockets are the inodes of this process's sockets.
func ownSockets(proc string) (map[string]bool, error) {
	dir := filepath.Join(proc, "self/fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			if _, gone := err.(*fs.PathError); gone { //nolint:errorlint // closed meanwhile
				continue
			}
			return nil, err
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return out, nil
}

// listening is a socket of /proc/net/tcp that listens.
type listening struct {
	at    netip.AddrPort
	uid   int
	inode string
}

// parseSocket reads a line of /proc/net/tcp or tcp6 (proc_net_tcp.txt): number,
// local and remote address, state, queues, timer, retransmits, uid, timeout,
// inode. It reports false for what does not listen (state 0A).
func parseSocket(line string) (listening, bool) {
	words := strings.Fields(line)
	if len(words) < 10 || words[3] != "0A" {
		return listening{}, false
	}
	at, err := parseAddress(words[1])
	if err != nil {
		return listening{}, false
	}
	uid, err := strconv.Atoi(words[7])
	if err != nil {
		return listening{}, false
	}
	return listening{at: at, uid: uid, inode: words[9]}, true
}

// parseAddress reads "0100007F:1F90": words of 32 bits in the machine's order,
// which is little-endian on all that we run on, and a port.
func parseAddress(text string) (netip.AddrPort, error) {
	ip, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(ip)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %q: %w", text, err)
	}
	addr, _ := netip.AddrFromSlice(raw) // 4 or 16 bytes
	return netip.AddrPortFrom(addr, uint16(n)), nil
}
