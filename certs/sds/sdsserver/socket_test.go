package sdsserver

import (
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestTheSocketHasItsModeAndALiveOneIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "socket")
	ln, err := Listen(path, Access{Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside the socket: %v, %v", left, err)
	}
	if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), "another agent serves there") {
		t.Errorf("a live socket: %v", err)
	}
	ln.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("a closed socket is still there")
	}
}

func TestAStaleSocketIsReplacedAndANewerOneIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	leaveStale(t, path)
	ln, err := Listen(path, Access{})
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	newer, err := Listen(path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Close()
	ln.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("closing the older listener took the newer one's socket away")
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("%v", err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100)), Access{}); err == nil || !strings.Contains(err.Error(), "relative") {
		t.Errorf("a name that is too long: %v", err)
	}
}

func TestTheSocketHasItsOwnerAndGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	access := Access{Owner: me.Username, Group: group.Name}
	want := [2]int{os.Getuid(), os.Getgid()}
	if os.Getuid() == 0 { // who can give it away
		access, want = Access{Owner: "65533", Group: "65532"}, [2]int{65533, 65532}
	}
	ln, err := Listen(path, access)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if got := [2]int{int(stat.Uid), int(stat.Gid)}; !ok || got != want {
		t.Errorf("owner and group %v, want %v", got, want)
	}
	if info.Mode().Perm() != DefaultMode {
		t.Errorf("mode %v, want %v", info.Mode().Perm(), DefaultMode)
	}
}

func TestAnOwnerThatIsNobodyIsRefusedAndNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	for _, access := range []Access{{Owner: "no-such-user"}, {Group: "no-such-group"}} {
		if _, err := Listen(filepath.Join(dir, "s"), access); err == nil || !strings.Contains(err.Error(), "no-such") {
			t.Errorf("%+v: %v", access, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Once in three times, more than one does if they do not lock each other out.
func TestOfAgentsThatStartAtOnceOneServes(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "s")
		leaveStale(t, path)
		var (
			group sync.WaitGroup
			mu    sync.Mutex
			won   []net.Listener
		)
		for range 20 {
			group.Go(func() {
				ln, err := Listen(path, Access{})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won = append(won, ln)
				case !errors.Is(err, errInUse):
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, ln := range won {
			ln.Close()
		}
		if len(won) != 1 {
			t.Fatalf("%d of them serve, want 1", len(won))
		}
	}
}

// leaveStale leaves a socket behind that nobody answers on.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
}

func TestANameIsAsLongAsTheKernelAllows(t *testing.T) {
	t.Chdir(t.TempDir())
	name := func(n int) string { // a directory, and "socket"
		return filepath.Join(strings.Repeat("d", n-len("/socket")), "socket")
	}
	// The socket is made in a directory of its own, whose name takes its share.
	longest := maxName - len("/.sds-1234567890/s") + len("/socket")
	ln, err := Listen(name(longest), Access{})
	if err != nil {
		t.Fatalf("%d bytes: %v", longest, err)
	}
	ln.Close()
	if _, err := Listen(name(longest+1), Access{}); err == nil || !strings.Contains(err.Error(), "1 bytes too long") {
		t.Errorf("%d bytes: %v", longest+1, err)
	}
}
