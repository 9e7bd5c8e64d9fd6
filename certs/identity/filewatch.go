package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"outrider/certs"
)

// maxFile bounds a file: their names may come from clients. Hosts' root bundles
// have a quarter of a megabyte.
const maxFile = 4 << 20

// fileWatch follows files that belong together.
type fileWatch struct {
	paths []string
	// allowed is asked before each read; nil allows all.
	allowed func(path string) error
	// take is given what the files have when it is not what it took last.
	take func(content [][]byte) error
	// refused is told why there is nothing to take, or why take did not; not
	// twice the same in a row.
	refused func(error)

	taken  string // the digest of what was taken last
	reason string // why nothing was at the last look; "" if it was taken
}

// run looks at the files at once, at every change beside one of them, and at
// least every minute, until ctx ends. Where they cannot be watched, it looks
// every few seconds.
func (w *fileWatch) run(ctx context.Context) {
	var dirs []string
	for _, p := range w.paths {
		dirs = append(dirs, certs.Dirs(p, "")...)
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for {
		err := certs.Watch(ctx, dirs, w.look)
		if err == nil { // ctx ended
			return
		}
		w.look()
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchAgain):
		}
	}
}

func (w *fileWatch) look() {
	content, err := w.readAll()
	seen := digest(content...)
	if err == nil && w.reason == "" && seen == w.taken {
		return
	}
	if err == nil {
		err = w.take(content)
	}
	if err == nil {
		w.taken, w.reason = seen, ""
		return
	}
	if w.reason != err.Error() {
		w.reason = err.Error()
		w.refused(err)
	}
}

func (w *fileWatch) readAll() ([][]byte, error) {
	out := make([][]byte, 0, len(w.paths))
	for _, p := range w.paths {
		if w.allowed != nil {
			if err := w.allowed(p); err != nil {
				return nil, err
			}
		}
		text, err := readFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// readFile reads a plain file: neither a pipe, which may block, nor a device.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s, not a file", path, info.Mode())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return text, err
}

func digest(content ...[]byte) string {
	sum := sha256.New()
	for _, c := range content {
		fmt.Fprintf(sum, "%d\n", len(c))
		sum.Write(c)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
