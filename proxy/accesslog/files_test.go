package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running runs files until the function that it returns is called.
func running(files *Files) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); files.Run(ctx) }()
	return func() { cancel(); <-done }
}

func TestALineIsWrittenAfterTheFlushInterval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	synctest.Test(t, func(t *testing.T) {
		files := NewFiles(FilesOptions{FlushInterval: 7 * time.Second})
		stop := running(files)
		f, err := files.open(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // idle
		f.write([]byte("one\n"))
		time.Sleep(7*time.Second - 1)
		synctest.Wait()
		if got := read(t, path); got != "" {
			t.Errorf("got %q too early", got)
		}
		time.Sleep(1)
		synctest.Wait()
		if got := read(t, path); got != "one\n" {
			t.Errorf("got %q, want the line", got)
		}
		f.write([]byte("two\n"))
		stop()
		files.Close()
		if got := read(t, path); got != "one\ntwo\n" {
			t.Errorf("got %q after Close", got)
		}
		if got := files.Counts(); got.FlushedByTimer != 1 || got.WriteBuffered != 2 || got.Dropped != 0 {
			t.Errorf("counts %+v", got)
		}
		f.write([]byte("late\n"))
		if got := files.Dropped(); got != 1 {
			t.Errorf("%d lines dropped, want the late one", got)
		}
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestManyLinesAreWrittenAtOnce(t *testing.T) {
	for size, want := range map[int]int{0: flushSize, 4 << 10: 4 << 10} {
		path := filepath.Join(t.TempDir(), "log")
		synctest.Test(t, func(t *testing.T) {
			files := NewFiles(FilesOptions{FlushInterval: time.Hour, FlushSize: size})
			stop := running(files)
			f, _ := files.open(path)
			line := bytes.Repeat([]byte("x"), 1<<10)
			for range want/len(line) - 1 {
				f.write(line)
			}
			synctest.Wait()
			if got := len(read(t, path)); got != 0 {
				t.Errorf("%d bytes are written before there are %d", got, want)
			}
			f.write(line)
			synctest.Wait()
			if got := len(read(t, path)); got < want {
				t.Errorf("%d bytes are written, want %d", got, want)
			}
			stop()
			files.Close()
		})
	}
}

func TestLogsOfOnePathShareTheFileAndKeepLinesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	files := NewFiles(FilesOptions{FlushInterval: time.Millisecond})
	stop := running(files)
	var writers sync.WaitGroup
	for range 4 {
		l, err := New(&config.AccessLog{Path: path, Format: "%CONNECTION_ID%" + strings.Repeat("-", 100) + "\n"}, files)
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			for i := range 500 {
				l.Write(&flow.Info{ID: uint64(i)}, "NotSet")
			}
		})
	}
	writers.Wait()
	stop()
	files.Close()
	lines := strings.Split(strings.TrimSuffix(read(t, path), "\n"), "\n")
	if len(lines) != 2000 {
		t.Errorf("%d lines, want 2000", len(lines))
	}
	for _, l := range lines {
		if !strings.HasSuffix(l, strings.Repeat("-", 100)) {
			t.Fatalf("line %q is not whole", l)
		}
	}
}

func TestAPipeThatNobodyReadsHoldsUpNothing(t *testing.T) {
	dir := t.TempDir()
	pipe, other := filepath.Join(dir, "pipe"), filepath.Join(dir, "log")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	files := NewFiles(FilesOptions{FlushInterval: time.Millisecond})
	stop := running(files)
	stuck, err := files.open(pipe) // there is no reader
	if err != nil {
		t.Fatal(err)
	}
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 10 {
		stuck.write(line)
	}
	if got := files.Dropped(); got == 0 {
		t.Error("10 MiB wait, want a bound")
	}
	free, err := files.open(other)
	if err != nil {
		t.Fatal(err)
	}
	free.write([]byte("goes on\n"))
	deadline := time.Now().Add(5 * time.Second)
	for read(t, other) == "" && time.Now().Before(deadline) {
		syscall.Nanosleep(&syscall.Timespec{Nsec: 1e6}, nil)
	}
	if got := read(t, other); got != "goes on\n" {
		t.Errorf("the other file has %q", got)
	}
	start := time.Now()
	stop()
	files.Close()
	if took := time.Since(start); took > 4*closeGrace {
		t.Errorf("it took %s to end", took)
	}
}

// stdout may be a blocking pipe, whose writes no deadline ends.
func TestAStreamThatNobodyReadsDoesNotKeepTheServerFromEnding(t *testing.T) {
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	out := os.NewFile(uintptr(fds[1]), "blocking")
	files := NewFiles(FilesOptions{FlushInterval: time.Millisecond})
	f := &file{
		path: "/dev/stdout", delay: time.Millisecond, counts: &files.counts, current: out,
		some: make(chan struct{}, 1), many: make(chan struct{}, 1),
	}
	files.files[f.path] = f
	stop := running(files)
	f.write(make([]byte, 1<<20))
	ended := make(chan struct{})
	go func() { defer close(ended); stop(); files.Close() }()
	select {
	case <-ended:
	case <-time.After(20 * closeGrace):
		t.Error("the server does not end")
	}
	syscall.Close(fds[0]) // the writer goes on, and fails
	<-ended
	f.writing.Lock() // it has ended
	f.writing.Unlock()
	out.Close()
}

func TestAFullDiskLosesLinesAndCountsThem(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatal(err)
	}
	files := NewFiles(FilesOptions{})
	f, err := files.open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	f.write([]byte("one\n"))
	f.write([]byte("two\n"))
	files.Close()
	if got := files.Counts(); got.Dropped != 2 || got.WriteFailed != 1 {
		t.Errorf("counts %+v, want both lines dropped in one write", got)
	}
}

func TestReopenWritesToANewFileAfterAMove(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "log"), filepath.Join(dir, "log.1")
	files := NewFiles(FilesOptions{})
	f, err := files.open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.write([]byte("old\n"))
	f.flush()
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := files.Reopen(); err != nil {
		t.Fatal(err)
	}
	f.write([]byte("new\n"))
	files.Close()
	if got := fmt.Sprintf("%q %q", read(t, moved), read(t, path)); got != `"old\n" "new\n"` {
		t.Errorf("got %s", got)
	}
}

func TestReopenThatFailsKeepsTheOldFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	moved := dir + ".1"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	files := NewFiles(FilesOptions{})
	f, err := files.open(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := files.Reopen(); err == nil {
		t.Error("no error, though the directory is gone")
	}
	f.write([]byte("kept\n"))
	files.Close()
	if got := read(t, filepath.Join(moved, "log")); got != "kept\n" || files.Counts().ReopenFailed != 1 {
		t.Errorf("got %q, counts %+v", got, files.Counts())
	}
}

func TestAFileThatCannotBeOpenedIsAnErrorWithItsPath(t *testing.T) {
	_, err := New(&config.AccessLog{Path: "/no/such/dir/log"}, NewFiles(FilesOptions{}))
	if err == nil || !strings.Contains(err.Error(), "/no/such/dir/log") {
		t.Errorf("got %v", err)
	}
}
