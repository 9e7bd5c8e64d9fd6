package sidecar

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain makes this binary another process that listens, for the test below.
func TestMain(m *testing.M) {
	if addr := os.Getenv("SIDECAR_TEST_LISTEN"); addr != "" {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			os.Exit(1)
		}
		defer ln.Close()
		os.Stdout.WriteString(ln.Addr().String() + "\n")
		os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

func TestAnotherProcessOfOurUserThatListensIsFoundAndWeAreNot(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), "SIDECAR_TEST_LISTEN="+addr)
		stdin, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 64)
		n, err := stdout.Read(said)
		if err != nil {
			t.Fatal(err)
		}
		theirs := netip.MustParseAddrPort(strings.TrimSpace(string(said[:n])))
		ours, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		found, err := SameUser("/proc", os.Getuid())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(found, theirs) {
			t.Errorf("%s is not in %v", theirs, found)
		}
		if us := ours.Addr().(*net.TCPAddr).AddrPort(); slices.Contains(found, us) {
			t.Errorf("our own %s is in %v", us, found)
		}
		if none, err := SameUser("/proc", os.Getuid()+4711); err != nil || slices.Contains(none, theirs) {
			t.Errorf("of another user: %v, %v", none, err)
		}
		stdin.Close()
		ours.Close()
		done := time.AfterFunc(5*time.Second, func() { other.Process.Kill() })
		if err := other.Wait(); err != nil {
			t.Error(err)
		}
		done.Stop()
	}
}
