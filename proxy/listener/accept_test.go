package listener

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/stats"
)

// serve runs an acceptor on a fresh listener; wait returns when it has ended.
func serve(t *testing.T, a *Acceptor, accepting, serving context.Context, handle func(context.Context, net.Conn)) (addr string, wait func()) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if a.Stats == nil {
		a.Stats = NewAcceptStats(stats.New().Root())
	}
	a.Log = slog.New(slog.DiscardHandler)
	var done sync.WaitGroup
	done.Go(func() {
		a.Serve(accepting, serving, ln, func(ctx context.Context, c net.Conn, done func()) {
			defer done()
			handle(ctx, c)
		})
	})
	return ln.Addr().String(), done.Wait
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestEndOfAcceptingLeavesConnectionsAlone(t *testing.T) {
	accepting, stop := context.WithCancel(t.Context())
	serving, cut := context.WithCancel(t.Context())
	served := make(chan struct{}, 2)
	a := &Acceptor{}
	addr, wait := serve(t, a, accepting, serving, func(ctx context.Context, c net.Conn) {
		defer c.Close()
		served <- struct{}{}
		<-ctx.Done() // slow: the next one is accepted all the same
	})
	dial(t, addr)
	<-served
	dial(t, addr)
	<-served
	stop()
	until(t, "the socket is closed", func() bool {
		c, err := net.Dial("tcp4", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if serving.Err() != nil {
		t.Fatal("serving has ended with accepting")
	}
	cut()
	wait()
}

func TestConnectionsOverALimitAreClosedAndCounted(t *testing.T) {
	for name, c := range map[string]struct {
		limit, global      *Limit
		overflow, globally uint64
	}{
		"listener": {NewLimit(1), nil, 2, 0},
		"global":   {nil, NewLimit(1), 0, 2},
		"both":     {NewLimit(1), NewLimit(9), 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			a := &Acceptor{Limit: c.limit, Global: c.global}
			release := make(chan struct{})
			addr, wait := serve(t, a, ctx, ctx, func(_ context.Context, conn net.Conn) {
				conn.Write([]byte("x"))
				<-release
				conn.Close()
			})
			first := dial(t, addr)
			first.Read(make([]byte, 1))
			for range 2 {
				if n, err := dial(t, addr).Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("one too many got %d bytes, %v", n, err)
				}
			}
			if o, g := a.Stats.Overflow.Value(), a.Stats.GlobalOverflow.Value(); o != c.overflow || g != c.globally {
				t.Errorf("counted %d and %d, want %d and %d", o, g, c.overflow, c.globally)
			}
			close(release)
			until(t, "the places are given back", func() bool { return c.limit.Active()+c.global.Active() == 0 })
			if n, _ := dial(t, addr).Read(make([]byte, 1)); n != 1 {
				t.Error("a place that was given back is not taken again")
			}
			stop()
			wait()
		})
	}
}

func TestAnAcceptorOfAClosedListenerEnds(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	(&Acceptor{Log: slog.New(slog.DiscardHandler)}).Serve(t.Context(), t.Context(), ln, nil)
}

func TestPausesGrowToASecondAndEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		b := burst{log: slog.New(slog.NewTextHandler(&log, nil)), address: "a"}
		begin := time.Now()
		b.wait(t.Context(), syscall.EMFILE)
		if d := time.Since(begin); d < minPause/2 || d > minPause {
			t.Errorf("the first pause is %s", d)
		}
		for range 20 {
			begin = time.Now()
			b.wait(t.Context(), syscall.EMFILE)
		}
		if d := time.Since(begin); d < maxPause/2 || d > maxPause {
			t.Errorf("the last pause is %s", d)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		begin = time.Now()
		b.wait(ended, syscall.EMFILE)
		if d := time.Since(begin); d != 0 {
			t.Errorf("the pause went on for %s after the end", d)
		}
		b.over()
		if n := strings.Count(log.String(), "\n"); n != 2 || b.tries != 0 {
			t.Errorf("a burst logs %d lines, want that it began and that it is over: %s", n, log.String())
		}
	})
}

// childEnv makes the test's binary the child of
// TestRunningOutOfDescriptorsPausesAndRecovers.
const childEnv = "OUTRIDER_TEST_SHORT_OF_DESCRIPTORS"

func TestRunningOutOfDescriptorsPausesAndRecovers(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1")
	child.Stderr = os.Stderr
	in, _ := child.StdinPipe()
	out, _ := child.StdoutPipe()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func() string {
		if !lines.Scan() {
			t.Fatal("the child has ended")
		}
		return lines.Text()
	}
	addr := next()
	var all []net.Conn
	for range 60 {
		all = append(all, dial(t, addr))
	}
	if got := next(); got != "short" {
		t.Fatalf("the child says %q", got)
	}
	fmt.Fprintln(in, "release")
	for i, c := range all {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("connection %d was not served after the shortage: %v", i, err)
		}
	}
	in.Close()
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// shortOfDescriptors serves with 40 descriptors, holds what it accepts until it
// is told to release it, and ends with its input.
func shortOfDescriptors() {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err == nil {
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 40, Max: 40})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx, stop := context.WithCancel(context.Background())
	release := make(chan struct{})
	a := &Acceptor{Stats: NewAcceptStats(stats.New().Root()), Log: slog.New(slog.DiscardHandler)}
	go func() {
		in := bufio.NewScanner(os.Stdin)
		fmt.Println(ln.Addr())
		for tick := time.NewTicker(time.Millisecond); a.Stats.Errors.Value() < 3; {
			<-tick.C
		}
		fmt.Println("short")
		in.Scan()
		close(release)
		in.Scan()
		stop()
	}()
	a.Serve(ctx, ctx, ln, func(_ context.Context, c net.Conn, done func()) {
		defer done()
		defer c.Close()
		<-release
		c.Write([]byte("x"))
	})
}
